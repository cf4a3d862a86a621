// Attention of the last w queries: what the end of the prompt looks at is what generation will use.
//   in   q of the last w positions (post-RoPE), keys of the slots
//   out  s [slots]: mean over the w queries of softmax attention (over all slots, causal inside the window), pooled
//        along the slots before the window, then joined over the group's query heads; the window itself = +inf
//   source: arXiv 2404.14469; FasterDecoding/SnapKV snapkv_utils.py; NVIDIA/kvpress snapkv_press.py
//   deviations: mean over the window where SnapKV sums (same order of one group)
#include <algorithm>

#include "sim/engine/pooled_window.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const std::int64_t window = std::min(context.params.integer("window"), context.moment.tokens);
  const std::size_t past = slots_before_window(context, window);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  if (past == 0) return;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h)
    head.push_back(pooled_window(context, context.first_query_head() + h, window, past, context.params.integer("pool"),
                                 context.params.word("kernel")));
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
               {"pool", ParamType::integer, "5", pool_help, 1, 1023, {}, true},
               {"kernel", ParamType::word, "avg", kernel_help, -1e300, 1e300, {"avg", "max"}},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
