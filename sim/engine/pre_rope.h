// Keys and queries before rotation.
#pragma once
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

const RopeSet& rope_of(const ModelCard& card, std::int64_t layer);
// Keys of the slots with their rotation undone: [slots, D].
Array<float, 2> pre_rope_keys(const ScoreContext& context);
// Queries of one head at the slots' positions, [slots, D], as attention sees them or with the rotation undone.
Array<float, 2> slot_queries(const ScoreContext& context, std::int64_t query_head, bool pre_rope);
// x [n, D] rotated in place to positions first, first + 1, …
void rotate_from(const ModelCard& card, std::int64_t layer, std::int64_t first, Array<float, 2>& x);

}  // namespace kvgrind::sim
