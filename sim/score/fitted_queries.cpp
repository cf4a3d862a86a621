// Attention of a few queries that stand for the answer to come, fitted for each head.
//   in   tensor "query" [L, Hq, n, D] of a calibration (pre-RoPE), keys of the slots
//   out  s [slots]: query i set at position T + i, softmax over all slots, mean over the n queries, pooled along the
//        slots, joined over the group's query heads
//   source: arXiv 2603.10899 (lookahead tokens); deviations: the queries are the same for every prompt, where the
//   published ones come from trained tokens that see it
#include "sim/engine/placed_queries.h"
#include "sim/engine/pooled_window.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const auto& table =
      context.params.calibration("calib").tensor("query", {card.layers, card.query_heads, -1, card.head_dim});
  const std::int64_t n = table.shape[2], size = n * card.head_dim;
  if (out.s.empty()) return;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    Array<float, 2> q({n, card.head_dim});
    const std::int64_t at = context.layer * card.query_heads + context.first_query_head() + h;
    std::copy_n(table.values.begin() + at * size, size, q.data());
    head.push_back(placed_attention(context, std::move(q), context.moment.tokens, context.params.integer("pool")));
  }
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow fitted_queries;
const ScoreRow fitted_queries = {
    .name = "fitted_queries",
    .source = "arXiv 2603.10899",
    .help = "attention of fitted queries that stand for the answer to come",
    .params = {{"pool", ParamType::integer, "5", pool_help, 1, 1023, {}, true},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}},
               {"calib",
                ParamType::calibration,
                "\"\"",
                "what kvgrind fit lookaheadkv wrote",
                -1e300,
                1e300,
                {"lookaheadkv"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
