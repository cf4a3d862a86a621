// CAP: tokens that add most to log det(I + Σ w v vᵀ): asked for by future queries and not redundant in value space.
//   in   mean pre-RoPE query at positions ≥ sinks, keys (post-RoPE) and values of the slots
//   out  s [slots], mean over the group's query heads of w vᵀA⁻¹v with A = I + Σ (w + eps) v vᵀ,
//        w = exp(tau (c − max c)), c = cos(k, R̄μ), R̄ = mean rotation of positions T … T + future − 1; sinks = +inf
//   source: arXiv 2604.25975; NVIDIA/kvpress cap_press.py; deviations: double precision
#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/engine/mean_rotation.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  const std::int64_t sinks = context.params.integer("sinks"), tokens = context.moment.tokens;
  const auto begin = static_cast<std::int64_t>(std::lower_bound(slots.position.begin(), slots.position.end(), sinks) -
                                               slots.position.begin());
  std::fill_n(out.s.begin(), begin, std::numeric_limits<float>::infinity());
  const std::int64_t n = slots.size() - begin, dim = slots.head_dim;
  if (n == 0) return;
  const RopeSet& set =
      card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(context.layer)].rope_set)];
  const Array<double, 2> mean = mean_rotation(set, dim, tokens, context.params.integer("future"));
  const auto rotation =
      Eigen::Map<const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(mean.data(), dim, dim);
  const Eigen::MatrixXd k = Eigen::Map<const Rows>(slots.k.data() + begin * dim, n, dim).cast<double>();
  const Eigen::MatrixXd v = Eigen::Map<const Rows>(slots.v.data() + begin * dim, n, dim).cast<double>();
  const Eigen::VectorXd k_norm = k.rowwise().norm().cwiseMax(1e-8);
  const double tau = context.params.number("tau"), eps = context.params.number("eps");
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(n);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const QueryStatistics statistics =
        context.signals.query_statistics(context.layer, context.first_query_head() + h, sinks, tokens);
    const Eigen::VectorXd mu = rotation * Eigen::Map<const Eigen::VectorXf>(statistics.mean.data(), dim).cast<double>();
    const Eigen::VectorXd c = ((k * mu).array() / k_norm.array() / std::max(mu.norm(), 1e-8)).matrix();
    const Eigen::VectorXd w = (tau * (c.array() - c.maxCoeff())).exp().matrix();
    Eigen::MatrixXd a = Eigen::MatrixXd::Identity(dim, dim);
    a += v.transpose() * ((w.array() + eps).matrix().asDiagonal() * v);
    const Eigen::MatrixXd solved = a.llt().solve(v.transpose());  // [D, n]
    sum += (w.array() * (v.transpose().array() * solved.array()).colwise().sum().transpose()).matrix();
  }
  for (std::int64_t i = 0; i < n; ++i)
    out.s[static_cast<std::size_t>(begin + i)] =
        static_cast<float>(sum(i) / static_cast<double>(context.query_heads()));
}

}  // namespace

extern const ScoreRow value_capacity;
const ScoreRow value_capacity = {
    .name = "value_capacity",
    .source = "arXiv 2604.25975; NVIDIA/kvpress cap_press.py",
    .help = "share of a token in the log-volume of query-weighted values",
    .params = {{"tau", ParamType::number, "5", "sharpness of the query weighting", 0, 1e3},
               {"future", ParamType::integer, "512", "positions ahead over which the rotation is averaged", 1, 1e7},
               {"sinks", ParamType::integer, "4", "first positions: always kept, left out", 0, 1e6},
               {"eps", ParamType::number, "1e-06", "added to the weights in the volume", 0, 1}},
    .needs = {Signal::query_statistics},
    .score = score,
};

}  // namespace kvgrind::sim::scores
