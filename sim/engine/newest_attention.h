// Attention of one query position over what a cache head holds, all query heads that read it at once.
#pragma once
#include <cstdint>

#include "core/array.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// Rows of the query heads that read cache head `group` of the context's layer, for the query at `position`: [heads,
// slots], bitwise what ScoreContext::attention gives head by head.
Array<float, 2> attention_of_position(const ScoreContext& context, std::int64_t group, std::int64_t position);

}  // namespace kvgrind::sim
