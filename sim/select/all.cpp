// Keeps every slot; the order by score still serves graded acts.
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  return take_first(priority_order(context.slots, context.columns.s, {}, context.nan_scores), context.slots.size());
}

}  // namespace

extern const SelectRow all;
const SelectRow all = {
    .name = "all",
    .source = "kvgrind",
    .help = "every slot",
    .params = {},
    .columns = {},
    .count = CountClass::fixed,
    .select = select,
};

}  // namespace kvgrind::sim::selects
