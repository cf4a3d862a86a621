// Whole chunks of consecutive slots, best first; every chunk counts as one, also a short last one.
//   n = max(1, floor(chunks · budget / slots + 1e-9)) chunks by the score of their first slot; ties: the earlier
//   source: arXiv 2502.00299; NVIDIA/kvpress chunkkv_press.py
#include <algorithm>
#include <cmath>

#include "sim/engine/priority.h"
#include "sim/engine/whole_blocks.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), size = context.params.integer("size");
  if (n < size)
    return take_first(priority_order(context.slots, context.columns.s, {}, context.nan_scores), context.budget);
  const std::int64_t chunks = (n + size - 1) / size;
  const auto count = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(
          static_cast<double>(chunks) * static_cast<double>(context.budget) / static_cast<double>(n) + 1e-9)),
      1, chunks);
  Selection out;
  take_whole_blocks(context, n, size, count, out);
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
