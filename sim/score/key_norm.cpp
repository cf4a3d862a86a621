// Key-norm score: small keys attract attention, so keep them.
//   in   k [slots, D], post-RoPE (rotation keeps norms)        out  s [slots] = −√Σ k²
//   source: arXiv 2406.11430; NVIDIA/kvpress knorm_press.py
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const View<const float, 2> k = context.slots().keys();
  for (std::int64_t i = 0; i < k.extent(0); ++i) {
    double sum = 0;
    for (std::int64_t d = 0; d < k.extent(1); ++d) sum += static_cast<double>(k(i, d)) * static_cast<double>(k(i, d));
    out.s[static_cast<std::size_t>(i)] = static_cast<float>(-std::sqrt(sum));
  }
}

}  // namespace

extern const ScoreRow key_norm;
const ScoreRow key_norm = {
    .name = "key_norm",
    .source = "arXiv 2406.11430; NVIDIA/kvpress knorm_press.py",
    .help = "small key norm scores high",
    .params = {},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
