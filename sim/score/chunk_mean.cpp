// Mean of another score over chunks of consecutive slots, one figure for all cache heads of the layer.
//   in   of = any score; size = slots of a chunk, the last may be shorter; slots of all heads must be the same
//   out  s [slots]: every slot of a chunk has the mean over its slots of Σ over cache heads of the inner score.
//        Slots that the inner score protects (+inf) count as the layer's largest finite score + 1.
//        Fewer slots than one chunk: the inner score itself
//   source: arXiv 2502.00299; NVIDIA/kvpress chunkkv_press.py
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const BoundCall& of = context.params.call("of");
  const auto n = static_cast<std::size_t>(context.slots().size());
  const auto size = static_cast<std::size_t>(context.params.integer("size"));
  if (n < size) {
    context.evaluate(of, out);
    return;
  }
  std::vector<std::vector<float>> head;
  float top = 0;
  for (std::int64_t g = 0; g < context.cache.heads(); ++g) {
    if (context.cache.group(context.layer, g).position != context.slots().position)
      throw Error(Category::usage, {.doing = "scoring by chunks",
                                    .found = "cache heads of a layer that hold different tokens",
                                    .expected = "the same tokens in all, as at the end of prefill"});
    Memory own;  // of the other head, for this call only
    const ScoreContext other{context.params,
                             context.facts,
                             context.moment,
                             context.signals,
                             context.cache,
                             context.layer,
                             g,
                             g == context.group ? context.memory : own};
    Columns columns;
    columns.s.resize(n);
    other.evaluate(of, columns);
    for (const float s : columns.s)
      if (std::isfinite(s)) top = std::max(top, s);
    head.push_back(std::move(columns.s));
  }
  for (std::size_t begin = 0; begin < n; begin += size) {
    const std::size_t end = std::min(n, begin + size);
    double sum = 0;
    for (const auto& s : head)
      for (std::size_t j = begin; j < end; ++j) sum += std::isinf(s[j]) && s[j] > 0 ? top + 1 : s[j];
    std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(begin), out.s.begin() + static_cast<std::ptrdiff_t>(end),
              static_cast<float>(sum / static_cast<double>(end - begin)));
  }
}

}  // namespace

extern const ScoreRow chunk_mean;
const ScoreRow chunk_mean = {
    .name = "chunk_mean",
    .source = "arXiv 2502.00299; NVIDIA/kvpress chunkkv_press.py",
    .help = "mean of a score over chunks, the same for all heads of a layer",
    .params = {{"of", ParamType::call, "window_attention", "the score to average", -1e300, 1e300, {"score"}},
               {"size", ParamType::integer, "20", "slots of a chunk", 1, 1e6}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
