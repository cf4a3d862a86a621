// How far back a row of attention looks: the area under its running sum.
#pragma once
#include <span>

namespace kvgrind::sim {

// Mean over m of Σ_{i ≤ m} a_i: all on the last 1/n, uniform (n + 1)/(2n), all on the first 1. 0 of an empty row.
inline double cumulated_area(std::span<const double> attention) {
  const auto n = static_cast<double>(attention.size());
  double area = 0;
  for (std::size_t i = 0; i < attention.size(); ++i) area += attention[i] * (n - static_cast<double>(i)) / n;
  return area;
}

}  // namespace kvgrind::sim
