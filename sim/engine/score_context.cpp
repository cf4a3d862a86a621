// What scores ask of the engine: attention over the slots of a group, and other scores.
#include <algorithm>
#include <cassert>
#include <numeric>

#include "kernels/attention/attention.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {
namespace {

std::int64_t slots_of(const ScoreContext& context, std::int64_t query_head) {
  const std::int64_t group = query_head * context.cache.heads() / context.facts.card->query_heads;
  return group == context.group ? context.slots().size() : context.cache.group(context.layer, group).size();
}

template <class Rows>
void attend(const ScoreContext& context, std::int64_t query_head, std::int64_t first, std::int64_t n, float* lse,
            Rows&& rows) {
  const ModelCard& card = *context.facts.card;
  const CacheState& cache = context.cache;
  const std::int64_t group = query_head * cache.heads() / card.query_heads;
  GroupView view = cache.read(context.layer, group);
  if (context.part && group == context.group)
    view = {context.part->keys(), context.part->values(), context.part->position, nullptr};
  const Array<float, 2> q = context.signals.queries(context.layer, query_head, first, n);
  std::vector<std::int64_t> q_position(static_cast<std::size_t>(n));
  std::iota(q_position.begin(), q_position.end(), first);
  kernels::AttentionParams params;
  params.q = q;
  params.q_position = q_position;
  params.k = view.k;
  params.v = view.v;
  params.k_position = view.position;
  params.log_count = view.log_count;
  params.scale = card.scale;
  params.softcap = card.softcap;
  params.window = context.window();
  if (!card.sinks.empty())
    params.sink = &card.sinks[static_cast<std::size_t>(context.layer * card.query_heads + query_head)];
  params.lse = lse;
  params.probabilities = rows;
  kernels::attention(params);
}

}  // namespace

std::int64_t ScoreContext::base_tokens() const {
  return base_amount(*facts.amount, std::min(cache.reach(layer), moment.tokens), *facts.card, cache.heads()).tokens;
}
std::int64_t ScoreContext::query_heads() const { return facts.card->query_heads / cache.heads(); }
std::int64_t ScoreContext::first_query_head() const { return group * query_heads(); }
std::int64_t ScoreContext::window() const { return facts.card->layer[static_cast<std::size_t>(layer)].window; }

Array<float, 2> ScoreContext::attention(std::int64_t query_head, std::int64_t first, std::int64_t n,
                                        std::vector<float>* lse) const {
  if (lse) lse->assign(static_cast<std::size_t>(n), 0.0f);
  const std::int64_t slots = slots_of(*this, query_head);
  Array<float, 2> out({n, slots});
  attend(*this, query_head, first, n, lse ? lse->data() : nullptr, [&](std::int64_t begin, View<const float, 2> p) {
    for (std::int64_t i = 0; i < p.extent(0); ++i)
      for (std::int64_t j = 0; j < slots; ++j) out(begin + i, j) = p(i, j);
  });
  return out;
}

std::vector<double> ScoreContext::attention_sum(std::int64_t query_head, std::int64_t first, std::int64_t n) const {
  const std::int64_t slots = slots_of(*this, query_head);
  std::vector<double> sum(static_cast<std::size_t>(slots), 0.0);
  attend(*this, query_head, first, n, nullptr, [&](std::int64_t, View<const float, 2> p) {
    for (std::int64_t i = 0; i < p.extent(0); ++i)
      for (std::int64_t j = 0; j < slots; ++j) sum[static_cast<std::size_t>(j)] += static_cast<double>(p(i, j));
  });
  return sum;
}

void ScoreContext::evaluate(const BoundCall& call, Columns& out) const {
  const auto& row = *std::get<const ScoreRow*>(call.row);
  const ScoreContext inner{call.params, facts, moment, signals, cache, layer, group, memory, part};
  out.s.assign(static_cast<std::size_t>(slots().size()), 0.0f);
  row.score(inner, out);
  assert(out.s.size() == static_cast<std::size_t>(slots().size()));
}

}  // namespace kvgrind::sim
