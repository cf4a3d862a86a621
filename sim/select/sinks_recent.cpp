// The first tokens and the last ones that fit, whatever the scores.
//   source: arXiv 2309.17453
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const Protection protection{.sink = context.params.integer("sinks"), .recent = context.slots.size()};
  std::int64_t unused = 0;  // scores have no say here
  return take_first(priority_order(context.slots, context.columns.s, protection, unused), context.budget);
}

}  // namespace

extern const SelectRow sinks_recent;
const SelectRow sinks_recent = {
    .name = "sinks_recent",
    .source = "arXiv 2309.17453",
    .help = "the first tokens and the last ones",
    .params = {{"sinks", ParamType::integer, "4", "first positions that stay", 0, 1e9}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
