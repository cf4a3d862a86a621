// The oldest slots go to the host; of those the oldest give up K and V and are computed again when they are read.
// What is not kept is dropped.
//   host: share of the kept slots, floored; recompute: share of those on the host, floored
//   source: arXiv 2403.17312 (ALISA's phases)
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/residual.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  const auto part = [](double share, double of) { return std::floor(share * of + 1e-9); };
  const double host = part(context.params.number("host"), static_cast<double>(context.selection.kept.size()));
  const double again = part(context.params.number("recompute"), host);
  plan.recompute.assign(plan.keep.size(), 0);
  plan.k_tier.assign(plan.keep.size(), Tier::device);
  double rank = 0;
  for (const std::int32_t slot : context.selection.kept) {
    const auto i = static_cast<std::size_t>(slot);
    const bool gone = slots.k_state[i].content == Content::recomputable;
    if (rank < again)
      plan.recompute[i] = gone ? 0 : 1;
    else if (gone)
      plan.recompute[i] = 2;
    if (rank >= again && rank < host) plan.k_tier[i] = Tier::host;
    ++rank;
  }
  plan.v_tier = plan.k_tier;
  set_residual(plan, *context.facts.card, context.params.word("checkpoint"));
}

}  // namespace

extern const ActRow spill;
const ActRow spill = {
    .name = "spill",
    .source = "arXiv 2403.17312",
    .help = "the oldest slots go to the host, the oldest of those are computed again",
    .params = {{"host", ParamType::number, "0.5", "share of the slots on the host", 0, 1},
               {"recompute", ParamType::number, "0", "share of those that are computed again instead", 0, 1},
               {"checkpoint", ParamType::word, "layers", checkpoint_help, -1e300, 1e300, {"single", "layers", "none"}}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
