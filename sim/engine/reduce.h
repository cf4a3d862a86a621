// Query heads of a group to one column.
#pragma once
#include <string_view>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// "mean", "max", "sum"; "none": query heads have slots of their own, so there is one column.
inline constexpr const char* reduce_help = "how query heads of a KV head join; none = a cache per query head";
std::vector<float> reduce_heads(const std::vector<std::vector<double>>& head, std::string_view how);

// Σ of attention that each slot received from all queries so far, per query head of the group, [heads][slots]: the
// recorded sums at the first call, rows over the slots as they are from then on (renormalised after evictions).
std::vector<std::vector<double>> running_column_sums(const ScoreContext& context);

}  // namespace kvgrind::sim
