// Whole chunks of consecutive slots, best first; every chunk counts as one, also a short last one.
//   n = max(1, floor(chunks · budget / slots + 1e-9)) chunks by the score of their first slot; ties: the earlier
//   source: arXiv 2502.00299; NVIDIA/kvpress chunkkv_press.py
#include <algorithm>
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), size = context.params.integer("size");
  if (n < size)
    return take_first(priority_order(context.slots, context.columns.s, {}, context.nan_scores), context.budget);
  std::vector<float> chunk;
  for (std::int64_t j = 0; j < n; j += size) chunk.push_back(context.columns.s[static_cast<std::size_t>(j)]);
  const auto chunks = static_cast<std::int64_t>(chunk.size());
  const auto count = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(
          static_cast<double>(chunks) * static_cast<double>(context.budget) / static_cast<double>(n) + 1e-9)),
      1, chunks);
  Selection out;
  std::int64_t taken = 0;
  for (const std::int32_t c : kernels::rank_order(chunk, &context.nan_scores)) {
    for (std::int64_t j = c * size; j < std::min(n, (c + 1) * size); ++j) {
      out.order.push_back(static_cast<std::int32_t>(j));
      if (taken < count) out.kept.push_back(static_cast<std::int32_t>(j));
    }
    ++taken;
  }
  std::sort(out.kept.begin(), out.kept.end());
  return out;
}

}  // namespace

extern const SelectRow chunks;
const SelectRow chunks = {
    .name = "chunks",
    .source = "arXiv 2502.00299; NVIDIA/kvpress chunkkv_press.py",
    .help = "whole chunks of consecutive tokens",
    .params = {{"size", ParamType::integer, "20", "slots of a chunk", 1, 1e6}},
    .columns = {},
    .count = CountClass::threshold,
    .select = select,
};

}  // namespace kvgrind::sim::selects
