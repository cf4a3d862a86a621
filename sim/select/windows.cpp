// WindowKV: whole windows of consecutive slots leave, worst first; what the score protects (+∞) stays.
//   past = slots before the first protected one at the end, B_l = budget − protected; ceil((past − B_l)/size) windows
//   leave, by the score of their first slot (ties: the later first); budgets below the protected keep its newest
//   source: optim996/WindowKV models/compress_utils.py
#include <algorithm>
#include <limits>

#include "sim/engine/priority.h"
#include "sim/engine/whole_blocks.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), size = context.params.integer("size");
  std::int64_t past = n;
  while (past > 0 && context.columns.s[static_cast<std::size_t>(past - 1)] == std::numeric_limits<float>::infinity())
    --past;
  if (context.budget < n - past)
    return take_first(priority_order(context.slots, context.columns.s, {}, context.nan_scores), context.budget);
  const std::int64_t over = std::max<std::int64_t>(0, n - context.budget);
  const std::int64_t count = (past + size - 1) / size - (over + size - 1) / size;
  Selection out;
  for (std::int64_t j = past; j < n; ++j) {
    out.kept.push_back(static_cast<std::int32_t>(j));
    out.order.push_back(static_cast<std::int32_t>(j));
  }
  take_whole_blocks(context, past, size, count, out);
  return out;
}

}  // namespace

extern const SelectRow windows;
const SelectRow windows = {
    .name = "windows",
    .source = "optim996/WindowKV",
    .help = "whole windows of consecutive slots leave, worst first",
    .params = {{"size", ParamType::integer, "8", "slots of a window", 1, 65536}},
    .columns = {},
    .count = CountClass::threshold,
    .select = select,
};

}  // namespace kvgrind::sim::selects
