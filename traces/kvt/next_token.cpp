#include "traces/kvt/next_token.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "traces/kvt/schema.h"

namespace kvgrind::traces {

double top_log_probabilities(std::span<const float> logits, std::int32_t* ids, float* log_p) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0.0;
  for (const float x : logits)
    if (!(x <= most)) most = x;
  for (const float x : logits) sum += std::exp(x - most);
  const double log_sum = most + std::log(sum);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const std::int64_t n = std::min<std::int64_t>(top_tokens, static_cast<std::int64_t>(logits.size()));
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + n, order.end(), before);
  for (std::int64_t i = 0; i < top_tokens; ++i) {
    ids[i] = i < n ? order[static_cast<std::size_t>(i)] : -1;
    log_p[i] = i < n ? static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(ids[i])]) - log_sum)
                     : -std::numeric_limits<float>::infinity();
  }
  return log_sum;
}

}  // namespace kvgrind::traces
