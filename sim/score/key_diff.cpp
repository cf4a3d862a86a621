// Keys that point away from the mean direction score high.
//   in   k [slots, D], post-RoPE     anchor = mean of k/‖k‖ (not normalised again)
//   out  s [slots] = −cos(k, anchor)
//   source: arXiv 2504.15364; NVIDIA/kvpress keydiff_press.py
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  constexpr double smallest = 1e-12;  // of a norm
  const View<const float, 2> k = context.slots().keys();
  const std::int64_t n = k.extent(0), dim = k.extent(1);
  std::vector<double> norm(static_cast<std::size_t>(n)), anchor(static_cast<std::size_t>(dim));
  for (std::int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (std::int64_t d = 0; d < dim; ++d) sum += static_cast<double>(k(i, d)) * static_cast<double>(k(i, d));
    norm[static_cast<std::size_t>(i)] = std::max(std::sqrt(sum), smallest);
    for (std::int64_t d = 0; d < dim; ++d)
      anchor[static_cast<std::size_t>(d)] += static_cast<double>(k(i, d)) / norm[static_cast<std::size_t>(i)];
  }
  double anchor_norm = 0;
  for (double& value : anchor) {
    value /= static_cast<double>(std::max<std::int64_t>(n, 1));
    anchor_norm += value * value;
  }
  anchor_norm = std::max(std::sqrt(anchor_norm), smallest);
  for (std::int64_t i = 0; i < n; ++i) {
    double dot = 0;
    for (std::int64_t d = 0; d < dim; ++d) dot += static_cast<double>(k(i, d)) * anchor[static_cast<std::size_t>(d)];
    out.s[static_cast<std::size_t>(i)] = static_cast<float>(-dot / (norm[static_cast<std::size_t>(i)] * anchor_norm));
  }
}

}  // namespace

extern const ScoreRow key_diff;
const ScoreRow key_diff = {
    .name = "key_diff",
    .source = "arXiv 2504.15364; NVIDIA/kvpress keydiff_press.py",
    .help = "keys unlike the mean key score high",
    .params = {},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
