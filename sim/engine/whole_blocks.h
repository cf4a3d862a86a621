// Selecting whole blocks of consecutive slots.
#pragma once
#include <algorithm>

#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// Slots [0, past) in blocks of `size` (the last may be shorter), by the score of their first slot, best first (ties:
// the earlier): the first `count` blocks are added to what `out` keeps, all of them to its order.
inline void take_whole_blocks(const SelectContext& context, std::int64_t past, std::int64_t size, std::int64_t count,
                              Selection& out) {
  std::vector<float> block;
  for (std::int64_t j = 0; j < past; j += size) block.push_back(context.columns.s[static_cast<std::size_t>(j)]);
  std::int64_t taken = 0;
  for (const std::int32_t b : kernels::rank_order(block, &context.nan_scores)) {
    for (std::int64_t j = b * size; j < std::min(past, (b + 1) * size); ++j) {
      out.order.push_back(static_cast<std::int32_t>(j));
      if (taken < count) out.kept.push_back(static_cast<std::int32_t>(j));
    }
    ++taken;
  }
  std::sort(out.kept.begin(), out.kept.end());
}

}  // namespace kvgrind::sim
