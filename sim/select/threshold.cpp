// Every slot whose score reaches a level, however many there are; the best one in any case.
//   source: zwxandy/MPCache (static selection); arXiv 2310.01801 (sets)
#include <algorithm>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const double at = context.params.number("at");
  std::vector<std::int32_t> order = priority_order(context.slots, context.columns.s, {}, context.nan_scores);
  std::int64_t count = 0;
  for (const float s : context.columns.s) count += static_cast<double>(s) >= at;
  return take_first(std::move(order), std::max<std::int64_t>(count, 1));
}

}  // namespace

extern const SelectRow threshold;
const SelectRow threshold = {
    .name = "threshold",
    .source = "zwxandy/MPCache",
    .help = "every slot whose score reaches a level",
    .params = {{"at", ParamType::number, "0", "level that a score must reach"}},
    .columns = {},
    .count = CountClass::fixed,
    .select = select,
};

}  // namespace kvgrind::sim::selects
