// At the compression moment and whenever n tokens have come since: up to n − 1 tokens over the budget in between.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) {
  if (context.moment.compress) return true;
  return context.moment.kind == Moment::Kind::step && context.since_last >= context.params.integer("n");
}

}  // namespace

extern const ScheduleRow every;
const ScheduleRow every = {
    .name = "every",
    .source = "kvgrind",
    .help = "at the compression moment and after every n tokens",
    .params = {{"n", ParamType::integer, "128", "tokens between decisions", 1, 1e9}},
    .one_shot = false,
    .steps = true,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
