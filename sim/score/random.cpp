// Random score, the lower bound of any informed policy.
//   out  s [slots] uniform in [0, 1), a function of (seed, sequence, layer, head, position) alone: kept sets nest over
//        budgets and do not depend on threads
//   share=layer: one set for all heads of a layer
//   source: NVIDIA/kvpress random_press.py; deviations: counter-based, in fp32 (kvpress draws in the key dtype)
#include "core/rng.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const bool layer_wide = context.params.word("share") == "layer";
  const RandomKey key{context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer),
                      layer_wide ? -1 : static_cast<std::int32_t>(context.group), "random"};
  const GroupSlots& slots = context.slots();
  for (std::size_t i = 0; i < out.s.size(); ++i) out.s[i] = random_uniform(key, slots.position[i]);
}

}  // namespace

extern const ScoreRow random;
const ScoreRow random = {
    .name = "random",
    .source = "NVIDIA/kvpress random_press.py",
    .help = "uniform random numbers, by seed",
    .params = {{"share",
                ParamType::word,
                "none",
                "none: each head draws its own set; layer: one set for all heads",
                -1e300,
                1e300,
                {"none", "layer"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
