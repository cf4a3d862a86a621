// Order of scores, once for the whole project: score descending, then index ascending; NaN last (and counted).
// −0 and +0 are one score.
// Roofline: rank_order three passes of a radix sort over 8 bytes a score, top_k three reads of 4 bytes a score; both
// O(n).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace kvgrind::kernels {

// Indices of all scores in that order. nan_count (optional) receives how many were NaN.
std::vector<std::int32_t> rank_order(std::span<const float> score, std::int64_t* nan_count = nullptr);
// The first k of rank_order, in ascending index order. k is clamped to [0, n].
std::vector<std::int32_t> top_k(std::span<const float> score, std::int64_t k, std::int64_t* nan_count = nullptr);

// By comparison sort: the oracles.
std::vector<std::int32_t> rank_order_ref(std::span<const float> score);
std::vector<std::int32_t> top_k_ref(std::span<const float> score, std::int64_t k);

}  // namespace kvgrind::kernels
