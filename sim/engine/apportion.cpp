#include "sim/engine/apportion.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace kvgrind::sim {
namespace {

// Real shares within the bounds: scale · w cut to [low, high], scale by bisection (the sum grows with it).
std::vector<double> real_shares(std::span<const double> weight, double total, std::span<const std::int64_t> low,
                                std::span<const std::int64_t> high) {
  const auto at = [&](double scale, std::size_t i) {
    return std::clamp(scale * weight[i], static_cast<double>(low[i]), static_cast<double>(high[i]));
  };
  const auto sum = [&](double scale) {
    double out = 0;
    for (std::size_t i = 0; i < weight.size(); ++i) out += at(scale, i);
    return out;
  };
  double below = 0, above = 1;
  while (sum(above) < total && above < 1e300) above *= 2;
  for (int step = 0; step < 200; ++step) {
    const double middle = 0.5 * (below + above);
    (sum(middle) < total ? below : above) = middle;
  }
  std::vector<double> out;
  for (std::size_t i = 0; i < weight.size(); ++i) out.push_back(at(above, i));
  return out;
}

}  // namespace

std::vector<std::int64_t> apportion(std::span<const double> weight, std::int64_t total,
                                    std::span<const std::int64_t> low, std::span<const std::int64_t> high) {
  const std::size_t n = weight.size();
  assert(low.size() == n && high.size() == n);
  if (n == 0) return {};
  const auto least = std::accumulate(low.begin(), low.end(), std::int64_t{0});
  const auto most = std::accumulate(high.begin(), high.end(), std::int64_t{0});
  assert(least <= most);
  total = std::clamp(total, least, most);
  std::vector<double> w(weight.begin(), weight.end());
  double sum = std::accumulate(w.begin(), w.end(), 0.0);
  if (!(sum > 0)) {
    std::fill(w.begin(), w.end(), 1.0);
    sum = static_cast<double>(n);
  }
  // A weight of nothing still takes what the others cannot hold.
  for (double& x : w) x = std::max(x / sum, 1e-12);
  const std::vector<double> real = real_shares(w, static_cast<double>(total), low, high);
  std::vector<std::int64_t> out(n);
  std::vector<double> rest(n);
  std::int64_t given = 0;
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = std::clamp(static_cast<std::int64_t>(std::floor(real[i] + 1e-9)), low[i], high[i]);
    rest[i] = real[i] - static_cast<double>(out[i]);
    given += out[i];
  }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rest[a] > rest[b] + 1e-9; });
  while (given != total) {
    const std::int64_t before = given;
    for (std::size_t k = 0; k < n && given < total; ++k)
      if (const std::size_t i = order[k]; out[i] < high[i]) ++out[i], ++given;
    for (std::size_t k = n; k-- > 0 && given > total;)
      if (const std::size_t i = order[k]; out[i] > low[i]) --out[i], --given;
    assert(given != before);
    if (given == before) break;
  }
  return out;
}

}  // namespace kvgrind::sim
