// After every chunk of a prefill, and at the compression moment.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::schedules {
namespace {

bool fires([[maybe_unused]] const ScheduleContext& context) {
  if (context.moment.compress) return true;
  const std::int64_t since = context.since_last < 0 ? context.moment.tokens : context.since_last;
  return context.moment.kind == Moment::Kind::chunk && since >= context.params.integer("size");
}

}  // namespace

extern const ScheduleRow chunk;
const ScheduleRow chunk = {
    .name = "chunk",
    .source = "kvgrind",
    .help = "after every prefill chunk",
    .params = {{"size", ParamType::integer, "512", "tokens of a chunk", 1, 1e9}},
    .one_shot = false,
    .steps = false,
    .fires = fires,
};

}  // namespace kvgrind::sim::schedules
