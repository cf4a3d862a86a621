// At the compression moment and after every later token: the budget holds all along.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) {
  return context.moment.compress || context.moment.kind == Moment::Kind::step;
}

}  // namespace

extern const ScheduleRow step;
const ScheduleRow step = {
    .name = "step",
    .source = "kvgrind",
    .help = "at the compression moment and after every token",
    .params = {},
    .one_shot = false,
    .steps = true,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
