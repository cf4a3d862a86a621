// Nothing leaves until there are more slots than the budget; then so many at once that there is room again.
//   over the budget B: floor(B · (1 − share) + 1e-9) slots stay, at least one: sinks, recents, then the best scores
//   source: arXiv 2305.17118
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const Protection protection{.sink = context.params.integer("sink"), .recent = context.params.integer("recent")};
  std::int64_t count = context.budget;
  if (context.slots.size() > count)
    count = std::min(count, std::max<std::int64_t>(
                                1, static_cast<std::int64_t>(std::floor(
                                       static_cast<double>(count) * (1 - context.params.number("share")) + 1e-9))));
  return take_first(priority_order(context.slots, context.columns.s, protection, context.nan_scores), count);
}

}  // namespace

extern const SelectRow batch;
const SelectRow batch = {
    .name = "batch",
    .source = "arXiv 2305.17118",
    .help = "drops a share of the budget at once when there are more slots than it",
    .params = {{"share", ParamType::number, "0.5", "share of the budget that is freed; 0 = one slot at a time", 0, 1},
               {"recent", ParamType::integer, "10", "last slots, kept before all scores", 0, 1e9},
               {"sink", ParamType::integer, "0", "first positions, kept before all scores", 0, 1e9}},
    .columns = {},
    .count = CountClass::at_most,
    .select = select,
};

}  // namespace kvgrind::sim::selects
