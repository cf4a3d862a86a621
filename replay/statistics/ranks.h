// Rank statistics with ties, and seeded bootstrap indices. Pairs with a NaN are left out by the callers.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace kvgrind::replay {

// Average ranks: 1 for the smallest; equal values share the mean of their ranks.
std::vector<double> average_ranks(std::span<const double> values);
// Spearman: Pearson correlation of average ranks. NaN when either side is constant or n < 2.
double spearman(std::span<const double> x, std::span<const double> y);
// Kendall tau-b, ties accounted for on both sides. NaN when either side is constant.
double kendall_tau_b(std::span<const double> x, std::span<const double> y);
double pearson(std::span<const double> x, std::span<const double> y);

// n indices in [0, n) drawn with replacement; resample r of the seed.
std::vector<std::int64_t> bootstrap_indices(std::uint64_t seed, std::int64_t resample, std::int64_t n);
// Linear-interpolated quantile of values (sorted inside), q in [0, 1]; NaN when empty.
double quantile(std::vector<double> values, double q);

}  // namespace kvgrind::replay
