// Once, at the protocol's compression moment.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) { return context.moment.compress; }

}  // namespace

extern const ScheduleRow prefill_end;
const ScheduleRow prefill_end = {
    .name = "prefill_end",
    .source = "kvgrind",
    .help = "once, at the compression moment",
    .params = {},
    .one_shot = true,
    .steps = false,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
