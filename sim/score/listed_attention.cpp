// Attention of the last queries of a few heads of the layer: those that find again what the answer repeats.
//   in   tensor "head" [L, Hq] of a calibration (higher = better at it); q of the last w positions, keys of the slots
//   out  s [slots]: Σ over the group's query heads among the best `heads` of the layer (ties: the earlier) of their
//        mean attention in the window, pooled, over `heads`; 0 where the group has none of them. The window = +inf.
//        share(of=listed_attention, join=sum) is the mean over the list, for all heads of the layer
//   source: arXiv 2508.02401; TUDa-HWAI/CompressKV snapkv_utils.py; deviations: mean over the window where it sums
#include <algorithm>
#include <numeric>

#include "sim/engine/pooled_window.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

std::vector<std::int64_t> best_heads(const float* figure, std::int64_t heads, std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(heads));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return figure[a] > figure[b]; });
  order.resize(static_cast<std::size_t>(std::min(n, heads)));
  return order;
}

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const auto& table = context.params.calibration("calib").tensor("head", {card.layers, card.query_heads});
  const std::vector<std::int64_t> list = best_heads(table.values.data() + context.layer * card.query_heads,
                                                    card.query_heads, context.params.integer("heads"));
  const std::int64_t window = std::min(context.params.integer("window"), context.moment.tokens);
  const std::size_t past = slots_before_window(context, window);
  std::fill(out.s.begin(), out.s.begin() + static_cast<std::ptrdiff_t>(past), 0.0f);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  if (past == 0) return;
  for (const std::int64_t h : list) {
    if (h < context.first_query_head() || h >= context.first_query_head() + context.query_heads()) continue;
    const std::vector<double> pooled =
        pooled_window(context, h, window, past, context.params.integer("pool"), context.params.word("kernel"));
    for (std::size_t j = 0; j < past; ++j) out.s[j] += static_cast<float>(pooled[j] / static_cast<double>(list.size()));
  }
}

}  // namespace

extern const ScoreRow listed_attention;
const ScoreRow listed_attention = {
    .name = "listed_attention",
    .source = "arXiv 2508.02401; TUDa-HWAI/CompressKV",
    .help = "attention of the last queries of the layer's few retrieval heads",
    .params =
        {{"heads", ParamType::integer, "4", "retrieval heads of each layer that vote", 1, 65536},
         {"window", ParamType::integer, "8", "last queries that vote; always kept themselves", 1, 65536},
         {"pool", ParamType::integer, "5", pool_help, 1, 1023, {}, true},
         {"kernel", ParamType::word, "avg", kernel_help, -1e300, 1e300, {"avg", "max"}},
         {"calib", ParamType::calibration, "\"\"", "what kvgrind fit compresskv wrote", -1e300, 1e300, {"compresskv"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
