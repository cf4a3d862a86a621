// MPCache: two levels of clusters of consecutive slots, ranked by a linear mixture of channel maxima and minima.
//   coarse clusters of 2s, fine ones of s slots; sim = Σ_c (a q_c max_c + (1 − a) q_c min_c), q = mean of the group's
//   query heads; the best max(1, floor(ratio1 · coarse)) coarse clusters, inside them the best max(1, floor(ratio2 ·
//   fine)) fine ones; with them the first fine cluster and the ragged rest at the end. ratio1 = ratio2 = 1: all
//   source: zwxandy/MPCache llama_flash_attn_monkey_patch_compression.py, utils.py
//   deviations: one choice for a cache head (the published model has one query head each)
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/read_support.h"

namespace kvgrind::sim::reads {
namespace {

float similarity(const GroupSlots& slots, std::int64_t first, std::int64_t n, const std::vector<double>& q, double a) {
  const std::int64_t dim = slots.head_dim;
  double sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    float low = slots.k[static_cast<std::size_t>(first * dim + d)], high = low;
    for (std::int64_t j = first; j < first + n; ++j) {
      const float k = slots.k[static_cast<std::size_t>(j * dim + d)];
      low = std::min(low, k);
      high = std::max(high, k);
    }
    sum += q[static_cast<std::size_t>(d)] * (a * static_cast<double>(high) + (1 - a) * static_cast<double>(low));
  }
  return static_cast<float>(sum);
}

std::int64_t part(double ratio, std::int64_t n) {
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(ratio * static_cast<double>(n) + 1e-9)));
}

void read(const ReadContext& context, std::vector<std::vector<std::int32_t>>& slots_of_query) {
  const GroupSlots& slots = context.cache.group(context.layer, context.group);
  const std::int64_t fine = context.params.integer("size");
  const double a = context.params.number("a");
  for (std::int64_t i = 0; i < context.q.extent(0); ++i) {
    const auto [low, high] = seen_slots(context, context.first + i);
    const std::vector<double> q = mean_query(context, i);
    const std::int64_t coarse = (high - low) / (2 * fine);
    std::vector<std::uint8_t> taken(static_cast<std::size_t>(2 * coarse), 0);
    if (coarse > 0) {
      std::vector<float> sim;
      for (std::int64_t c = 0; c < coarse; ++c) sim.push_back(similarity(slots, low + c * 2 * fine, 2 * fine, q, a));
      std::vector<float> inner;
      std::vector<std::int32_t> which;
      for (const std::int32_t c : kernels::top_k(sim, part(context.params.number("ratio1"), coarse)))
        for (const std::int32_t f : {2 * c, 2 * c + 1}) {
          which.push_back(f);
          inner.push_back(similarity(slots, low + f * fine, fine, q, a));
        }
      for (const std::int32_t w : kernels::top_k(inner, part(context.params.number("ratio2"), 2 * coarse)))
        taken[static_cast<std::size_t>(which[static_cast<std::size_t>(w)])] = 1;
      taken[0] = 1;
    }
    auto& chosen = slots_of_query[static_cast<std::size_t>(i)];
    for (std::int64_t j = low; j < high; ++j) {
      const auto cluster = static_cast<std::size_t>((j - low) / fine);
      if (cluster >= taken.size() || taken[cluster]) chosen.push_back(static_cast<std::int32_t>(j));
    }
  }
}

// Maxima and minima of the coarse clusters, and of as many fine ones as lie inside the chosen.
std::int64_t metadata_bytes(const ReadContext& context) {
  const std::int64_t coarse =
      context.cache.group(context.layer, context.group).size() / (2 * context.params.integer("size"));
  const std::int64_t clusters = coarse == 0 ? 0 : coarse + 2 * part(context.params.number("ratio1"), coarse);
  return 2 * clusters * context.facts.card->head_dim * size_bytes(context.facts.card->dtype);
}

}  // namespace

extern const ReadRow clusters;
const ReadRow clusters = {
    .name = "clusters",
    .source = "zwxandy/MPCache",
    .help = "two levels of clusters, by channel maxima and minima",
    .params = {{"size", ParamType::integer, "16", "slots of a fine cluster; a coarse one has twice as many", 1, 65536},
               {"ratio1", ParamType::number, "0.5", "share of the coarse clusters that are looked into", 0, 1},
               {"ratio2", ParamType::number, "0.2", "share of the fine clusters that are read", 0, 1},
               {"a", ParamType::number, "0.6", "weight of the maxima; the rest is the minima's", 0, 1}},
    .needs = {},
    .reads_all = false,
    .read = read,
    .metadata_bytes = metadata_bytes,
};

}  // namespace kvgrind::sim::reads
