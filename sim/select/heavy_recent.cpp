// A share of the budget for the newest slots, the rest for the best scores among the others.
//   source: arXiv 2306.14048 (heavy hitters and recents, half each)
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const double share = context.params.number("share");
  const auto recent = static_cast<std::int64_t>(std::floor(static_cast<double>(context.budget) * share + 1e-9));
  return take_first(priority_order(context.slots, context.columns.s,
                                   {.sink = context.params.integer("sink"), .recent = recent}, context.nan_scores),
                    context.budget);
}

}  // namespace

extern const SelectRow heavy_recent;
const SelectRow heavy_recent = {
    .name = "heavy_recent",
    .source = "arXiv 2306.14048; FMInference/H2O",
    .help = "part of the budget for the newest, the rest by score",
    .params = {{"share", ParamType::number, "0.5", "share of the budget for the newest slots", 0, 1},
               {"sink", ParamType::integer, "0", "first positions, kept before all scores", 0, 1e9}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
