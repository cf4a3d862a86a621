#include "replay/report/bootstrap.h"

#include <cmath>
#include <limits>

#include "replay/statistics/ranks.h"

namespace kvgrind::replay {

Bootstrap::Bootstrap(std::int64_t prompts, std::int64_t resamples, std::uint64_t seed, double confidence)
    : prompts_(prompts), confidence_(confidence) {
  for (std::int64_t r = 0; prompts > 1 && r < resamples; ++r) draws_.push_back(bootstrap_indices(seed, r, prompts));
}

Estimate Bootstrap::mean(std::span<const double> values) const {
  Estimate out;
  double sum = 0;
  for (const double value : values)
    if (!std::isnan(value)) {
      sum += value;
      ++out.n;
    }
  if (out.n == 0) return out;
  out.value = sum / static_cast<double>(out.n);
  if (out.n < 2) return out;
  std::vector<double> means;
  for (const auto& draw : draws_) {
    double total = 0, n = 0;
    for (const std::int64_t i : draw)
      if (const double value = values[static_cast<std::size_t>(i)]; !std::isnan(value)) {
        total += value;
        ++n;
      }
    if (n > 0) means.push_back(total / n);
  }
  const double tail = (1.0 - confidence_) / 2.0;
  out.lo = quantile(means, tail);
  out.hi = quantile(means, 1.0 - tail);
  return out;
}

Estimate Bootstrap::difference(std::span<const double> a, std::span<const double> b) const {
  std::vector<double> values(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) values[i] = a[i] - b[i];
  return mean(values);
}

}  // namespace kvgrind::replay
