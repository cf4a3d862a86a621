// A head's mean query against its mean key at every distance: is its attention recent or far?
//   in   mean pre-RoPE query of each query head over positions ≥ skip, mean pre-RoPE key of the slots
//   out  figure "retrieval": both means set at positions 0 … length − 1, a = softmax of the last query's row; mean over
//   m
//        of Σ_{i ≤ m} a_i, mean over the group. Uniform attention gives (n + 1)/(2n), all on the last 1/n. s = position
//   source: NVIDIA/kvpress duo_attention_press.py (its stand-in for learned head scores); deviations: from this prompt
#include <Eigen/Core>
#include <cmath>

#include "sim/engine/cumulated_area.h"
#include "sim/engine/pre_rope.h"

namespace kvgrind::sim::scores {
namespace {

Array<float, 2> repeated(std::span<const float> x, std::int64_t n) {
  Array<float, 2> out({n, static_cast<std::int64_t>(x.size())});
  for (std::int64_t i = 0; i < n; ++i) std::copy(x.begin(), x.end(), &out(i, 0));
  return out;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  for (std::size_t j = 0; j < out.s.size(); ++j) out.s[j] = static_cast<float>(slots.position[j]);
  const ModelCard& card = *context.facts.card;
  const std::int64_t length = context.params.integer("length"), dim = slots.head_dim;
  if (slots.size() == 0) {
    out.figures["retrieval"] = 0;
    return;
  }
  const Array<float, 2> keys = pre_rope_keys(context);
  std::vector<float> mean(static_cast<std::size_t>(dim));
  for (std::int64_t d = 0; d < dim; ++d) {
    double sum = 0;
    for (std::int64_t j = 0; j < slots.size(); ++j) sum += static_cast<double>(keys(j, d));
    mean[static_cast<std::size_t>(d)] = static_cast<float>(sum / static_cast<double>(slots.size()));
  }
  Array<float, 2> k = repeated(mean, length);
  rotate_from(card, context.layer, 0, k);
  double area = 0;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const QueryStatistics statistics = context.signals.query_statistics(
        context.layer, context.first_query_head() + h, context.params.integer("skip"), context.moment.tokens);
    Array<float, 2> q = repeated(statistics.mean, 1);
    rotate_from(card, context.layer, length - 1, q);
    Eigen::VectorXd z(length);
    for (std::int64_t m = 0; m < length; ++m) {
      double dot = 0;
      for (std::int64_t d = 0; d < dim; ++d) dot += static_cast<double>(q(0, d)) * static_cast<double>(k(m, d));
      z(m) = static_cast<double>(card.scale) * dot;
    }
    z = (z.array() - z.maxCoeff()).exp().matrix();
    z /= z.sum();
    area += cumulated_area({z.data(), static_cast<std::size_t>(length)});
  }
  out.figures["retrieval"] = area / static_cast<double>(context.query_heads());
}

}  // namespace

extern const ScoreRow cumulated_attention;
const ScoreRow cumulated_attention = {
    .name = "cumulated_attention",
    .source = "NVIDIA/kvpress duo_attention_press.py",
    .help = "whether a head's mean attention is recent or far",
    .params = {{"length", ParamType::integer, "500", "positions over which the means are set", 1, 65536},
               {"skip", ParamType::integer, "0", "first positions left out of the mean query", 0, 1e6}},
    .needs = {Signal::query_statistics},
    .score = score,
    .gives = {"retrieval"},
};

}  // namespace kvgrind::sim::scores
