// Which token comes next, and how likely a given one was. NaN logits are never chosen.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/rng.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

std::int32_t greedy(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  return std::isnan(logits[best]) ? 0 : static_cast<std::int32_t>(best);
}

// Ids that may be drawn, likeliest first (ties: lowest id), cut to the top k.
std::vector<std::int32_t> candidates(std::span<const float> logits, std::int64_t top_k) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > minus_infinity) ids.push_back(static_cast<std::int32_t>(i));
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float la = logits[static_cast<std::size_t>(a)], lb = logits[static_cast<std::size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  if (top_k > 0 && top_k < static_cast<std::int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + top_k, ids.end(), likelier);
    ids.resize(static_cast<std::size_t>(top_k));
  }
  std::sort(ids.begin(), ids.end(), likelier);
  return ids;
}

}  // namespace

std::int32_t sample(std::span<const float> logits, const Sampling& sampling, std::int64_t sequence,
                    std::int64_t position) {
  assert(!logits.empty());
  if (!(sampling.temperature > 0.0f)) return greedy(logits);
  const std::vector<std::int32_t> ids = candidates(logits, sampling.top_k);
  // Nothing finite to weigh, or a certain winner.
  if (ids.empty() || std::isinf(logits[static_cast<std::size_t>(ids[0])])) return greedy(logits);

  const double top = static_cast<double>(logits[static_cast<std::size_t>(ids[0])]);
  std::vector<double> weight(ids.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    weight[i] = std::exp((static_cast<double>(logits[static_cast<std::size_t>(ids[i])]) - top) /
                         static_cast<double>(sampling.temperature));
    sum += weight[i];
  }
  // Top p: the shortest front whose share reaches top_p; at least one.
  std::size_t kept = ids.size();
  if (sampling.top_p < 1.0f) {
    const double wanted = static_cast<double>(sampling.top_p) * sum;
    double share = 0.0;
    kept = 0;
    do share += weight[kept++];
    while (kept < ids.size() && share < wanted);
    sum = share;
  }
  const RandomKey key{.seed = sampling.seed, .sequence = sequence, .name = "sample"};
  double left = static_cast<double>(random_uniform(key, position)) * sum;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    left -= weight[i];
    if (left < 0.0) return ids[i];
  }
  return ids[kept - 1];
}

double negative_log_probability(std::span<const float> logits, std::int32_t id) {
  assert(id >= 0 && static_cast<std::size_t>(id) < logits.size());
  double top = -std::numeric_limits<double>::infinity();
  for (const float logit : logits) top = std::max(top, static_cast<double>(logit));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(id)]);
}

}  // namespace kvgrind::sim
