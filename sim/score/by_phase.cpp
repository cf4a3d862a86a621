// One score at the compression moment, another afterwards.
//   source: NVIDIA/kvpress prefill_decoding_press.py
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  context.evaluate(context.params.call(context.moment.compress ? "prefill" : "decode"), out);
}

}  // namespace

extern const ScoreRow by_phase;
const ScoreRow by_phase = {
    .name = "by_phase",
    .source = "NVIDIA/kvpress prefill_decoding_press.py",
    .help = "one score at the compression moment, another afterwards",
    .params =
        {{"prefill", ParamType::call, "key_diff", "the score at the compression moment", -1e300, 1e300, {"score"}},
         {"decode", ParamType::call, "key_norm", "the score afterwards", -1e300, 1e300, {"score"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
