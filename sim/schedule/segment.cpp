// At the compression moment and at every segment end after it. scope=new: a fraction is of the tokens since, and what
// was decided before stays.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) {
  return context.moment.kind == Moment::Kind::segment && (context.moment.compress || context.since_last >= 0);
}

}  // namespace

extern const ScheduleRow segment;
const ScheduleRow segment = {
    .name = "segment",
    .source = "kvgrind",
    .help = "at the compression moment and at later segment ends",
    .params = {{"scope",
                ParamType::word,
                "all",
                "all: decides on every slot; new: on those since the last decision",
                -1e300,
                1e300,
                {"all", "new"}}},
    .one_shot = false,
    .steps = false,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
