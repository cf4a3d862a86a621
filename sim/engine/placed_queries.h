// Attention of queries that no token asked: given before rotation, set at chosen positions.
#pragma once
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// q [n, D] pre-RoPE, set at positions first, first + 1, …: mean over them of the softmax over all slots, pooled (avg)
// along the slots: [slots].
std::vector<double> placed_attention(const ScoreContext& context, Array<float, 2> q, std::int64_t first,
                                     std::int64_t pool);

}  // namespace kvgrind::sim
