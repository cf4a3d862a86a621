// Some of a group's slots, to be scored as if there were no others.
#pragma once
#include <span>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// The slots of those indices (ascending), K and V copied.
GroupSlots slots_at(const GroupSlots& slots, std::span<const std::int32_t> index);
// The slots that `attention` of a query head of the layer is over: the part that is scored, or another group's own.
inline const GroupSlots& slots_of_head(const ScoreContext& context, std::int64_t query_head) {
  const std::int64_t group = query_head * context.cache.heads() / context.facts.card->query_heads;
  return group == context.group ? context.slots() : context.cache.group(context.layer, group);
}
// Scores of a nested call over a part of the slots, as at a moment that has seen `tokens`.
Columns evaluate_part(const ScoreContext& context, const BoundCall& call, const GroupSlots& part, std::int64_t tokens);

}  // namespace kvgrind::sim
