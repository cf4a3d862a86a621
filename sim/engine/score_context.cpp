// What scores ask of the engine: attention over the slots of a group, and other scores.
#include <algorithm>
#include <cassert>
#include <numeric>

#include "kernels/attention/attention.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/newest_attention.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {
namespace {

std::int64_t slots_of(const ScoreContext& context, std::int64_t query_head) {
  const std::int64_t group = query_head * context.cache.heads() / context.facts.card->query_heads;
  return group == context.group ? context.slots().size() : context.cache.group(context.layer, group).size();
}

// Attention of queries at q_position over what cache head `group` of the layer holds.
template <class Rows>
void attend(const ScoreContext& context, std::int64_t group, View<const float, 2> q,
            std::span<const std::int64_t> q_position, const float* sink, float* lse, Rows&& rows) {
  GroupView view = context.cache.read(context.layer, group);
  if (context.part && group == context.group)
    view = {context.part->keys(), context.part->values(), context.part->position, nullptr};
  kernels::AttentionParams params;
  params.q = q;
  params.q_position = q_position;
  params.k = view.k;
  params.v = view.v;
  params.k_position = view.position;
  params.log_count = view.log_count;
  params.scale = context.facts.card->scale;
  params.softcap = context.facts.card->softcap;
  params.window = context.window();
  params.sink = sink;
  params.lse = lse;
  params.probabilities = rows;
  kernels::attention(params);
}

const float* sink_of(const ScoreContext& context, std::int64_t query_head) {
  const ModelCard& card = *context.facts.card;
  return card.sinks.empty() ? nullptr
                            : &card.sinks[static_cast<std::size_t>(context.layer * card.query_heads + query_head)];
}

// The newest query's row where the running model has it over just these slots; else null.
const float* known_row(const ScoreContext& context, std::int64_t query_head, std::int64_t position) {
  const std::int64_t group = query_head * context.cache.heads() / context.facts.card->query_heads;
  if (context.part && group == context.group) return nullptr;
  const AttentionRow row = context.signals.newest_attention(context.layer, query_head, position);
  if (row.p.empty() || !std::ranges::equal(row.key_position, context.cache.group(context.layer, group).position))
    return nullptr;
  return row.p.data();
}

template <class Rows>
void attend(const ScoreContext& context, std::int64_t query_head, std::int64_t first, std::int64_t n, float* lse,
            Rows&& rows) {
  const std::int64_t group = query_head * context.cache.heads() / context.facts.card->query_heads;
  if (n == 1 && !lse)
    if (const float* row = known_row(context, query_head, first)) {
      rows(0, View<const float, 2>(row, {1, slots_of(context, query_head)}));
      return;
    }
  const Array<float, 2> q = context.signals.queries(context.layer, query_head, first, n);
  std::vector<std::int64_t> q_position(static_cast<std::size_t>(n));
  std::iota(q_position.begin(), q_position.end(), first);
  attend(context, group, q, q_position, sink_of(context, query_head), lse, rows);
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

Array<float, 2> attention_of_position(const ScoreContext& context, std::int64_t group, std::int64_t position) {
  const std::int64_t heads = context.query_heads(), first = group * heads, dim = context.facts.card->head_dim;
  Array<float, 2> out({heads, slots_of(context, first)});
  if (known_row(context, first, position)) {  // then of the others too
    for (std::int64_t h = 0; h < heads; ++h)
      std::copy_n(known_row(context, first + h, position), out.extent(1), &out(h, 0));
    return out;
  }
  Array<float, 2> q({heads, dim});
  for (std::int64_t h = 0; h < heads; ++h) {
    const Array<float, 2> one = context.signals.queries(context.layer, first + h, position, 1);
    std::copy_n(one.data(), dim, &q(h, 0));
  }
  const std::vector<std::int64_t> at(static_cast<std::size_t>(heads), position);
  const auto rows_from = [&](std::int64_t h) {
    return [&out, h](std::int64_t begin, View<const float, 2> p) {
      for (std::int64_t i = 0; i < p.extent(0); ++i)
        std::copy_n(p.data() + i * p.stride(0), out.extent(1), &out(h + begin + i, 0));
    };
  };
  if (out.extent(1) == 0) return out;
  if (!sink_of(context, first)) {
    attend(context, group, q, at, nullptr, nullptr, rows_from(0));
  } else {  // a logit of its own for each head
    for (std::int64_t h = 0; h < heads; ++h)
      attend(context, group, q.view().slice(h, 1), std::span(at).first(1), sink_of(context, first + h), nullptr,
             rows_from(h));
  }
  return out;
}

void ScoreContext::evaluate(const BoundCall& call, Columns& out) const {
  const auto& row = *std::get<const ScoreRow*>(call.row);
  const ScoreContext inner{call.params, facts, moment, signals, cache, layer, group, memory, part};
  out.s.assign(static_cast<std::size_t>(slots().size()), 0.0f);
  row.score(inner, out);
  assert(out.s.size() == static_cast<std::size_t>(slots().size()));
}

}  // namespace kvgrind::sim
