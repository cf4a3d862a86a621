// No score: every slot equal, so that selectors go by position alone.
//   out  s [slots] = 0
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  (void)out;  // the engine hands in zeros
}

}  // namespace

extern const ScoreRow none;
const ScoreRow none = {
    .name = "none",
    .source = "kvgrind",
    .help = "every slot equal",
    .params = {},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
