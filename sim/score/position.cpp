// Newer is better.
//   out  s [slots] = position
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  for (std::size_t i = 0; i < out.s.size(); ++i) out.s[i] = static_cast<float>(slots.position[i]);
}

}  // namespace

extern const ScoreRow position;
const ScoreRow position = {
    .name = "position",
    .source = "kvgrind",
    .help = "newer tokens score higher",
    .params = {},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
