// Slots that are not kept give up K and V and are computed again whenever they are read; one that is kept again is
// stored again. Output is exact; bytes and computation are what changes.
//   checkpoint: what is stored for a token to compute it again (one residual, each layer's, nothing)
//   source: arXiv 2603.19664 (KV-Direct)
#include "sim/engine/primitive.h"
#include "sim/engine/residual.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  plan.recompute.assign(plan.keep.size(), 0);
  for (std::size_t i = 0; i < plan.keep.size(); ++i) {
    const bool gone = slots.k_state[i].content == Content::recomputable;
    plan.recompute[i] = plan.keep[i] ? (gone ? 2 : 0) : 1;
  }
  plan.keep.assign(plan.keep.size(), 1);
  set_residual(plan, *context.facts.card, context.params.word("checkpoint"));
}

}  // namespace

extern const ActRow recompute;
const ActRow recompute = {
    .name = "recompute",
    .source = "arXiv 2603.19664",
    .help = "what is not kept is computed again when it is read",
    .params = {{"checkpoint", ParamType::word, "single", checkpoint_help, -1e300, 1e300, {"single", "layers", "none"}}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
