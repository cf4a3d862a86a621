#include "sim/engine/slot_part.h"

namespace kvgrind::sim {

GroupSlots slots_at(const GroupSlots& slots, std::span<const std::int32_t> index) {
  GroupSlots out;
  out.head_dim = slots.head_dim;
  for (const std::int32_t i : index) {
    const auto at = static_cast<std::size_t>(i);
    out.position.push_back(slots.position[at]);
    out.rotary.push_back(slots.rotary[at]);
    out.count.push_back(slots.count[at]);
    out.k_state.push_back(slots.k_state[at]);
    out.v_state.push_back(slots.v_state[at]);
    const auto begin = static_cast<std::ptrdiff_t>(i * slots.head_dim), end = begin + slots.head_dim;
    out.k.insert(out.k.end(), slots.k.begin() + begin, slots.k.begin() + end);
    out.v.insert(out.v.end(), slots.v.begin() + begin, slots.v.begin() + end);
  }
  return out;
}

Columns evaluate_part(const ScoreContext& context, const BoundCall& call, const GroupSlots& part, std::int64_t tokens) {
  Moment moment = context.moment;
  moment.tokens = tokens;
  const ScoreContext inner{context.params, context.facts,  moment, context.signals, context.cache, context.layer,
                           context.group,  context.memory, &part};
  Columns out;
  inner.evaluate(call, out);
  return out;
}

}  // namespace kvgrind::sim
