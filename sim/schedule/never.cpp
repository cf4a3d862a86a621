// Never: the cache stays full (reading may still choose).
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) { return false; }

}  // namespace

extern const ScheduleRow never;
const ScheduleRow never = {
    .name = "never",
    .source = "kvgrind",
    .help = "never",
    .params = {},
    .one_shot = true,
    .steps = false,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
