// WindowKV: how much the end of the prompt looks at each window of consecutive tokens.
//   in   A: attention of the last `suffix` queries, summed over them; slots before them cut into windows of `size`
//   out  s [slots]: every slot of a window has the window's figure, mean over the group's query heads of
//        task=aggregate: the mean over the window; task=locate: the mean of its top min(size / 2, length) slots (≥ 1);
//        the suffix itself = +inf
//   source: optim996/WindowKV models/compress_utils.py
#include <numeric>

#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t suffix = std::min(context.params.integer("suffix"), tokens);
  const auto size = static_cast<std::size_t>(context.params.integer("size"));
  const bool locate = context.params.word("task") == "locate";
  const std::size_t past = slots_below(slots, tokens - suffix);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  std::vector<double> window((past + size - 1) / size, 0.0);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::vector<double> sum = context.attention_sum(context.first_query_head() + h, tokens - suffix, suffix);
    for (std::size_t w = 0; w < window.size(); ++w) {
      std::vector<double> part(sum.begin() + static_cast<std::ptrdiff_t>(w * size),
                               sum.begin() + static_cast<std::ptrdiff_t>(std::min(past, (w + 1) * size)));
      if (locate) {
        std::sort(part.rbegin(), part.rend());
        part.resize(std::max<std::size_t>(1, std::min(size / 2, part.size())));
      }
      window[w] += std::accumulate(part.begin(), part.end(), 0.0) / static_cast<double>(part.size()) /
                   static_cast<double>(context.query_heads());
    }
  }
  for (std::size_t j = 0; j < past; ++j) out.s[j] = static_cast<float>(window[j / size]);
}

}  // namespace

extern const ScoreRow window_blocks;
const ScoreRow window_blocks = {
    .name = "window_blocks",
    .source = "optim996/WindowKV",
    .help = "attention of the prompt's end to windows of consecutive tokens",
    .params = {{"suffix", ParamType::integer, "16", "last queries that vote; always kept themselves", 1, 65536},
               {"size", ParamType::integer, "8", "slots of a window", 1, 65536},
               {"task",
                ParamType::word,
                "aggregate",
                "aggregate: mean of a window; locate: mean of its better half",
                -1e300,
                1e300,
                {"aggregate", "locate"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
