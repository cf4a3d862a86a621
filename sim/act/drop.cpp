// What is not kept is gone. positions=compact numbers the kept keys anew without gaps up to the next query: slot r of B
// is rotated to T − B + r. RoPE sees distances only, so this equals positions 0 … B−1 with the query at B.
//   source: arXiv 2309.17453 (positions inside the cache)
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  if (context.params.word("positions") == "keep") return;
  const GroupSlots& slots = context.slots();
  plan.rotary = slots.rotary;
  std::int64_t next = context.moment.tokens - static_cast<std::int64_t>(context.selection.kept.size());
  for (const std::int32_t slot : context.selection.kept) plan.rotary[static_cast<std::size_t>(slot)] = next++;
}

}  // namespace

extern const ActRow drop;
const ActRow drop = {
    .name = "drop",
    .source = "kvgrind",
    .help = "what is not kept is gone",
    .params = {{"positions",
                ParamType::word,
                "keep",
                "compact: kept keys are rotated to positions without gaps",
                -1e300,
                1e300,
                {"keep", "compact"}}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
