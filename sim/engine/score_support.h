// Small things that several scores need.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

inline constexpr float always_kept = std::numeric_limits<float>::infinity();

// Slots whose position is below `position`.
inline std::size_t slots_below(const GroupSlots& slots, std::int64_t position) {
  return static_cast<std::size_t>(std::lower_bound(slots.position.begin(), slots.position.end(), position) -
                                  slots.position.begin());
}

// Slots that a query at `position` sees: [first, second).
inline std::pair<std::size_t, std::size_t> seen_by(const GroupSlots& slots, std::int64_t position,
                                                   std::int64_t window) {
  return {window > 0 ? slots_below(slots, position - window + 1) : 0, slots_below(slots, position + 1)};
}

// Mean over the group's query heads of attention rows [first, first + n): [n, slots].
inline Array<float, 2> mean_attention(const ScoreContext& context, std::int64_t first, std::int64_t n) {
  const std::int64_t heads = context.query_heads();
  Array<float, 2> out = context.attention(context.first_query_head(), first, n);
  for (std::int64_t h = 1; h < heads; ++h) {
    const Array<float, 2> more = context.attention(context.first_query_head() + h, first, n);
    for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] += more.data()[i];
  }
  for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] /= static_cast<float>(heads);
  return out;
}

}  // namespace kvgrind::sim
