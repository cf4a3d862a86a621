// Attention of queries set at positions to come: where a query stands matters more than what it asks.
//   in   pre-RoPE queries of the last n positions, keys of the slots
//   out  s [slots]: query i rotated to position T + offset + i, softmax over all slots, mean over the n queries, pooled
//        along the slots, mean over the group's query heads
//   source: arXiv 2603.11564 (abstract; the rest from memory)
#include "kernels/rope/rope.h"
#include "sim/engine/placed_queries.h"
#include "sim/engine/pre_rope.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const std::int64_t tokens = context.moment.tokens, n = std::min(context.params.integer("n"), tokens);
  if (out.s.empty()) return;
  std::vector<std::int64_t> position;
  for (std::int64_t i = 0; i < n; ++i) position.push_back(tokens - n + i);
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    Array<float, 2> q = context.signals.queries(context.layer, context.first_query_head() + h, tokens - n, n);
    kernels::rope_undo(rope_of(card, context.layer), position, View<float, 3>(q.data(), {n, 1, q.extent(1)}));
    head.push_back(placed_attention(context, std::move(q), tokens + context.params.integer("offset"),
                                    context.params.integer("pool")));
  }
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow repositioned_queries;
const ScoreRow repositioned_queries = {
    .name = "repositioned_queries",
    .source = "arXiv 2603.11564",
    .help = "attention of the last queries, set at positions to come",
    .params = {{"n", ParamType::integer, "32", "last queries that are set anew", 1, 65536},
               {"offset", ParamType::integer, "0", "positions between the prompt's end and the first of them", 0, 1e7},
               {"pool", ParamType::integer, "5", "width of pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
