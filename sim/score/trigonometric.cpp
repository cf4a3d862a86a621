// The average logit of a key at distances to come, as a series in the distance: pre-RoPE queries cluster around a
// centre.
//   in   tensors "mean" [L, Hq, D] and "modulus" [L, Hq, D/2] of pre-RoPE queries, pre-RoPE keys and positions of the
//   slots out  per query head, with complex pairs f: a_f = |q̄_f||k_f|, φ_f = arg(q̄_f · conj k_f), e_f = (m_f −
//   |q̄_f|)|k_f|
//        (residual=off: m_f |k_f|), now = T: mean over δ = 1, 2, 4 … offsets of Σ_f c²[a_f cos(ω_f (now − p + δ) + φ_f)
//        + e_f], c = RoPE's attention factor; z-scored over the slots (population deviation); the largest over the
//        group's query heads. layers=on: the mean over all layers that are scored, position by position, one set for
//        each KV head
//   source: arXiv 2604.04921; WeianMao/triattention pruning_utils.py, triattention.py
#include <algorithm>
#include <cmath>
#include <map>

#include "sim/engine/pre_rope.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

std::vector<double> series(const ScoreContext& context, std::int64_t head, const Array<float, 2>& k) {
  const ModelCard& card = *context.facts.card;
  const Calibration& fitted = context.params.calibration("calib");
  const std::int64_t dim = card.head_dim;
  const float* mean = fitted.tensor("mean", {card.layers, card.query_heads, dim}).values.data() +
                      (context.layer * card.query_heads + head) * dim;
  const float* modulus = fitted.tensor("modulus", {card.layers, card.query_heads, dim / 2}).values.data() +
                         (context.layer * card.query_heads + head) * (dim / 2);
  const RopeSet& set = rope_of(card, context.layer);
  const std::int64_t half = set.rotary_dim() / 2, offsets = context.params.integer("offsets");
  const double factor = static_cast<double>(set.attention_factor) * static_cast<double>(set.attention_factor);
  const bool residual = context.params.boolean("residual");
  std::vector<double> out;
  for (std::int64_t j = 0; j < k.extent(0); ++j) {
    const auto distance =
        static_cast<double>(context.moment.tokens - context.slots().rotary[static_cast<std::size_t>(j)]);
    double sum = 0;
    for (std::int64_t f = 0; f < half; ++f) {
      const double qr = mean[f], qi = mean[f + half], kr = k(j, f), ki = k(j, f + half);
      const double q_size = std::hypot(qr, qi), k_size = std::hypot(kr, ki);
      const double phase = std::atan2(qi * kr - qr * ki, qr * kr + qi * ki);
      const auto omega = static_cast<double>(set.inv_freq[static_cast<std::size_t>(f)]);
      double waves = 0;
      for (std::int64_t o = 0; o < offsets; ++o)
        waves += std::cos(omega * (distance + std::ldexp(1.0, static_cast<int>(o))) + phase);
      sum += factor * (q_size * k_size * waves / static_cast<double>(offsets) +
                       (static_cast<double>(modulus[f]) - (residual ? q_size : 0.0)) * k_size);
    }
    out.push_back(sum);
  }
  return out;
}

void standardise(std::vector<double>& x) {
  double mean = 0, squares = 0;
  for (const double value : x) mean += value / static_cast<double>(x.size());
  for (const double value : x) squares += (value - mean) * (value - mean) / static_cast<double>(x.size());
  const double deviation = std::max(std::sqrt(squares), 1e-12);
  for (double& value : x) value = (value - mean) / deviation;
}

void score(const ScoreContext& context, Columns& out) {
  if (out.s.empty()) return;
  const Array<float, 2> k = pre_rope_keys(context);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    std::vector<double> x = series(context, context.first_query_head() + h, k);
    if (context.params.boolean("normalise")) standardise(x);
    for (std::size_t j = 0; j < x.size(); ++j)
      out.s[j] = h == 0 ? static_cast<float>(x[j]) : std::max(out.s[j], static_cast<float>(x[j]));
  }
}

void join(const JoinContext& context) {
  if (!context.params.boolean("layers")) return;
  std::map<std::pair<std::int64_t, std::int64_t>, std::pair<double, double>> sum;  // by group and position
  for (const JoinGroup& group : context.groups)
    for (std::size_t j = 0; j < group.columns->s.size(); ++j) {
      auto& at = sum[{group.group, group.slots->position[j]}];
      at.first += static_cast<double>(group.columns->s[j]);
      at.second += 1;
    }
  for (const JoinGroup& group : context.groups)
    for (std::size_t j = 0; j < group.columns->s.size(); ++j) {
      const auto& at = sum[{group.group, group.slots->position[j]}];
      group.columns->s[j] = static_cast<float>(at.first / at.second);
    }
}

}  // namespace

extern const ScoreRow trigonometric;
const ScoreRow trigonometric = {
    .name = "trigonometric",
    .source = "arXiv 2604.04921; WeianMao/triattention pruning_utils.py",
    .help = "average logit at distances to come, from the centre of a head's queries",
    .params = {{"offsets", ParamType::integer, "17", "distances 1, 2, 4 … that are averaged", 1, 30},
               {"normalise", ParamType::boolean, "on", "z-score of each query head over the slots"},
               {"residual", ParamType::boolean, "on", "only what the mean query leaves of the mean modulus"},
               {"layers", ParamType::boolean, "on", "mean over layers: one set for each KV head"},
               {"calib",
                ParamType::calibration,
                "\"\"",
                "what kvgrind fit triattention wrote",
                -1e300,
                1e300,
                {"triattention"}}},
    .needs = {},
    .score = score,
    .join = join,
};

}  // namespace kvgrind::sim::scores
