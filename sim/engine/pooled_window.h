// The observation window of SnapKV and its kin: one query head's mean attention of the last queries, pooled.
#pragma once
#include <string_view>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

inline constexpr const char* pool_help = "width of pooling along tokens; 1 = none";
inline constexpr const char* kernel_help = "pooling: avg counts zero padding";

// Slots before the last `window` positions of the moment.
std::size_t slots_before_window(const ScoreContext& context, std::int64_t window);
// Mean over the last `window` queries of a query head (softmax over all slots, causal inside the window), pooled
// ("avg", "max") along the first `past` slots: [past].
std::vector<double> pooled_window(const ScoreContext& context, std::int64_t query_head, std::int64_t window,
                                  std::size_t past, std::int64_t pool, std::string_view kernel);

}  // namespace kvgrind::sim
