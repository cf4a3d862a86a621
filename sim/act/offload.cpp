// Slots live in another tier. of=rest: what is kept is on the device, the rest goes to the tier instead of being
// dropped, and comes back when it is kept again; of=kept: what is kept goes to the tier, the rest is dropped.
// Moves are counted where they happen; a read fetches what is not on the device.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const Tier tier = context.params.word("tier") == "disk" ? Tier::disk : Tier::host;
  const bool rest = context.params.word("of") == "rest";
  plan.k_tier.assign(plan.keep.size(), Tier::device);
  for (std::size_t i = 0; i < plan.keep.size(); ++i)
    if ((plan.keep[i] != 0) != rest) plan.k_tier[i] = tier;
  if (rest) plan.keep.assign(plan.keep.size(), 1);
  plan.v_tier = plan.k_tier;
  if (context.params.word("part") == "value") plan.k_tier.clear();
}

}  // namespace

extern const ActRow offload;
const ActRow offload = {
    .name = "offload",
    .source = "kvgrind",
    .help = "slots live in another tier",
    .params = {{"tier", ParamType::word, "host", "where", -1e300, 1e300, {"host", "disk"}},
               {"of",
                ParamType::word,
                "rest",
                "rest: instead of being dropped; kept: what is kept",
                -1e300,
                1e300,
                {"rest", "kept"}},
               {"part", ParamType::word, "both", "both, or values alone", -1e300, 1e300, {"both", "value"}},
               {"share", ParamType::number, "0",
                "within classes: share of the kept slots, best first; 0 = all that is left", 0, 1}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
