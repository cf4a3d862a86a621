// Means over prompts with percentile intervals; every mean of a table is drawn with the same resamples, so differences
// are paired.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "replay/report/report.h"

namespace kvgrind::replay {

class Bootstrap {
 public:
  Bootstrap(std::int64_t prompts, std::int64_t resamples, std::uint64_t seed, double confidence);
  // values [prompts], NaN = not there; the mean is over those there. One prompt: no interval.
  Estimate mean(std::span<const double> values) const;
  // Mean of a − b over prompts that have both.
  Estimate difference(std::span<const double> a, std::span<const double> b) const;

 private:
  std::int64_t prompts_;
  double confidence_;
  std::vector<std::vector<std::int64_t>> draws_;
};

}  // namespace kvgrind::replay
