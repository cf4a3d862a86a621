// Attention of the last w queries: what the end of the prompt looks at is what generation will use.
//   in   q of the last w positions (post-RoPE), keys of the slots
//   out  s [slots]: mean over the w queries of softmax attention (over all slots, causal inside the window), pooled
//        along the slots before the window, then joined over the group's query heads; the window itself = +inf
//   source: arXiv 2404.14469; FasterDecoding/SnapKV snapkv_utils.py; NVIDIA/kvpress snapkv_press.py
//   deviations: mean over the window where SnapKV sums (same order of one group)
#include <algorithm>
#include <limits>

#include "kernels/pool/pool.h"
#include "sim/engine/primitive.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t window = std::min(context.params.integer("window"), tokens);
  const std::int64_t pool = context.params.integer("pool");
  const auto past = static_cast<std::size_t>(
      std::lower_bound(slots.position.begin(), slots.position.end(), tokens - window) - slots.position.begin());
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), std::numeric_limits<float>::infinity());
  if (past == 0) return;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::vector<double> sum = context.attention_sum(context.first_query_head() + h, tokens - window, window);
    std::vector<float> mean(past), pooled(past);
    for (std::size_t j = 0; j < past; ++j) mean[j] = static_cast<float>(sum[j] / static_cast<double>(window));
    if (context.params.word("kernel") == "max")
      kernels::pool_max(mean, pool, pooled);
    else
      kernels::pool_avg(mean, pool, pooled);
    head.emplace_back(pooled.begin(), pooled.end());
  }
  const std::vector<float> joined = reduce_heads(head, context.params.word("reduce"));
  std::copy(joined.begin(), joined.end(), out.s.begin());
}

}  // namespace

extern const ScoreRow window_attention;
const ScoreRow window_attention = {
    .name = "window_attention",
    .source = "arXiv 2404.14469; FasterDecoding/SnapKV",
    .help = "attention of the last queries, pooled along tokens",
    .params = {{"window", ParamType::integer, "32", "last queries that vote; always kept themselves", 1, 65536},
               {"pool", ParamType::integer, "5", "width of pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"kernel", ParamType::word, "avg", "pooling: avg counts zero padding", -1e300, 1e300, {"avg", "max"}},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
