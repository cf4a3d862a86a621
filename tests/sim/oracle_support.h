// Single primitives asked beside the fixture T8: what a budget gives layers, what a selector keeps, sources of given
// keys.
#pragma once
#include <algorithm>
#include <map>
#include <numeric>
#include <random>

#include "tests/support/t8.h"

namespace kvgrind::tests {

inline std::vector<float> front(std::vector<float> list, std::size_t n) {
  list.resize(n);
  return list;
}

// Counts that a budget gives one head in each of several layers.
struct Given {
  std::vector<std::map<std::string, double, std::less<>>> figures;
  std::vector<std::vector<float>> scores;
};
inline std::vector<std::int64_t> counts(const std::string& call, std::int64_t layers, std::int64_t tokens,
                                        std::int64_t base, const Given& given = {}) {
  ModelCard card;
  card.layers = layers;
  card.query_heads = card.kv_heads = 1;
  const sim::BoundCall bound = sim::bind_call("budget", parse_call(call), call);
  std::vector<sim::Columns> held(static_cast<std::size_t>(layers));
  std::vector<sim::BudgetGroup> groups;
  for (std::int64_t l = 0; l < layers; ++l) {
    const auto at = static_cast<std::size_t>(l);
    if (at < given.figures.size()) held[at].figures = given.figures[at];
    if (at < given.scores.size()) held[at].s = given.scores[at];
    groups.push_back({l, 0, tokens, tokens, base, static_cast<double>(base), held[at].s, 0, &held[at]});
  }
  const sim::RunFacts facts{.card = &card};
  const sim::Amount amount{sim::Amount::Kind::tokens, static_cast<double>(base)};
  sim::Memory memory;
  std::get<const sim::BudgetRow*>(bound.row)->allocate({bound.params, facts, {}, attention(), amount, groups, memory});
  std::vector<std::int64_t> out;
  for (const auto& group : groups) out.push_back(group.kept);
  return out;
}

// What a selector keeps of n slots at positions 0 … n − 1.
inline sim::Selection selected(const std::string& call, std::vector<float> s, std::int64_t budget,
                               std::int64_t layers = 1, std::int64_t layer = 0, std::int64_t heads = 1,
                               std::int64_t group = 0, const sim::Columns& more = {}, View<const float, 2> keys = {}) {
  const sim::BoundCall bound = sim::bind_call("select", parse_call(call), call);
  ModelCard card;
  card.layers = layers;
  card.query_heads = card.kv_heads = heads;
  const sim::RunFacts facts{.card = &card};
  sim::GroupSlots slots;
  slots.position.resize(s.size());
  std::iota(slots.position.begin(), slots.position.end(), 0);
  slots.rotary = slots.position;
  slots.count.assign(s.size(), 1.0f);
  sim::Columns own = more;
  const sim::Moment moment{.tokens = static_cast<std::int64_t>(s.size()), .compress = true};
  own.s = std::move(s);
  std::int64_t nan = 0;
  sim::Memory memory;
  return std::get<const sim::SelectRow*>(bound.row)->select(
      {bound.params, facts, moment, slots, own, layer, group, budget, nan, memory, keys, keys});
}

// One layer and head with those keys of two dimensions, no rotation; all else random.
inline SyntheticData keys_of(const std::vector<std::vector<float>>& keys) {
  SyntheticShape shape{.layers = 1,
                       .query_heads = 1,
                       .kv_heads = 1,
                       .head_dim = 2,
                       .tokens = static_cast<std::int64_t>(keys.size()),
                       .rotary_dim = 0};
  std::mt19937_64 rng(6);
  SyntheticData data = random_data(rng, shape);
  for (std::size_t t = 0; t < keys.size(); ++t)
    for (std::size_t d = 0; d < 2; ++d)
      data.k[0](static_cast<std::int64_t>(t), static_cast<std::int64_t>(d)) = keys[t][d];
  return data;
}

// T8's attention with the first query head alone, and with a KV head for each query head.
inline const SyntheticSource& one_head() {
  static const SyntheticSource source([] {
    SyntheticData data = t8_attention();
    data.card.query_heads = 1;
    data.q.pop_back();
    return data;
  }());
  return source;
}
inline const SyntheticSource& two_heads() {
  static const SyntheticSource source([] {
    SyntheticData data = t8_attention();
    data.card.kv_heads = 2;
    data.k.push_back(data.k[0]);
    data.v.push_back(data.v[0]);
    return data;
  }());
  return source;
}

// What a policy keeps of every group at the end, [L · heads].
inline std::vector<std::vector<std::int64_t>> kept_of_all(const SyntheticSource& source, std::string_view policy,
                                                          std::string_view amount, EngineSetup setup = {}) {
  setup.amount = sim::parse_amount(amount);
  const EngineRun run = run_engine(policy, source, setup);
  std::vector<std::vector<std::int64_t>> out;
  for (std::int64_t layer = 0; layer < run.cache.layers(); ++layer)
    for (std::int64_t group = 0; group < run.cache.heads(); ++group) out.push_back(run.kept(layer, group));
  return out;
}

inline SyntheticSource random_source_of(const SyntheticShape& shape, std::uint64_t seed = 41) {
  std::mt19937_64 rng(seed);
  return SyntheticSource(random_data(rng, shape));
}

// All queries 0: every query attends to all it sees alike.
inline SyntheticData without_queries(SyntheticData data) {
  for (Array<float, 2>& q : data.q) std::fill_n(q.data(), q.extent(0) * q.extent(1), 0.0f);
  return data;
}

}  // namespace kvgrind::tests
