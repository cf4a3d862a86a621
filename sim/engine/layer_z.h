// z-scores over all cache heads of a layer together.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// Runs `apply(groups of one layer)` for each layer of a firing.
template <class Apply>
void each_layer_of(std::span<const JoinGroup> groups, Apply&& apply) {
  for (std::size_t begin = 0; begin < groups.size();) {
    std::size_t end = begin;
    while (end < groups.size() && groups[end].layer == groups[begin].layer) ++end;
    apply(groups.subspan(begin, end - begin));
    begin = end;
  }
}

// (x − mean) / max(std, 1e-6) over all finite values of the columns, std unbiased; others stay as they are.
inline void z_scores(const std::vector<std::vector<float>*>& columns) {
  double sum = 0, squares = 0, n = 0;
  for (const auto* column : columns)
    for (const float x : *column)
      if (std::isfinite(x)) sum += static_cast<double>(x), n += 1;
  const double mean = n > 0 ? sum / n : 0;
  for (const auto* column : columns)
    for (const float x : *column)
      if (std::isfinite(x)) squares += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean);
  const double deviation = std::max(n > 1 ? std::sqrt(squares / (n - 1)) : 0.0, 1e-6);
  for (auto* column : columns)
    for (float& x : *column)
      if (std::isfinite(x)) x = static_cast<float>((static_cast<double>(x) - mean) / deviation);
}

}  // namespace kvgrind::sim
