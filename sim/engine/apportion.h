// Weights to whole numbers: one routine for every allocator.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace kvgrind::sim {

// out[i] in [low[i], high[i]] with sum exactly min(max(total, Σ low), Σ high), as near to total · w / Σ w as the bounds
// allow: what is beyond a bound is shared among the others by their weights; whole numbers by the largest remainder,
// ties to the first. Weights must be finite and ≥ 0; all zero = equal.
std::vector<std::int64_t> apportion(std::span<const double> weight, std::int64_t total,
                                    std::span<const std::int64_t> low, std::span<const std::int64_t> high);

}  // namespace kvgrind::sim
