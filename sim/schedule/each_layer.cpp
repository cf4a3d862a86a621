// When a layer is done with a prefill: a model-wide budget is then shared anew among the layers done so far, so that
// their sum never exceeds it (a cascade).
//   source: arXiv 2503.12491 (CAKE)
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) { return context.moment.kind == Moment::Kind::layer; }

}  // namespace

extern const ScheduleRow each_layer;
const ScheduleRow each_layer = {
    .name = "each_layer",
    .source = "kvgrind",
    .help = "after each layer of a prefill",
    .params = {},
    .one_shot = true,
    .steps = false,
    .fires = fires,
    .layers = true,
};

}  // namespace kvgrind::sim::schedules
