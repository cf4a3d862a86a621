// The one order in which slots are kept: what is protected first, then by score.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

struct Protection {
  std::int64_t sink = 0;    // positions below it
  std::int64_t recent = 0;  // the last so many slots
  bool newest = false;      // the last slot before all others
};

// All slots: the newest (if asked), sinks from the first on, recents from the last on, slots of score +inf from the
// last on, the rest by score descending, then position ascending, NaN last. One order for every budget, so that kept
// sets nest. nan_scores is increased by the NaN scores met.
std::vector<std::int32_t> priority_order(const GroupSlots& slots, std::span<const float> score,
                                         const Protection& protection, std::int64_t& nan_scores);
// The first `budget` of the order, ascending, and the order.
Selection take_first(std::vector<std::int32_t> order, std::int64_t budget);

}  // namespace kvgrind::sim
