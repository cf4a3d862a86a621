// Expected attention of future queries, taken as Gaussian before rotation, with statistics of other texts.
//   in   tensors "mean" [L, Hq, D] and "covariance" [L, Hq, D, D] of a calibration (pre-RoPE queries, first 4 positions
//   left
//        out, divided by n − 1); keys (post-RoPE) and values of the slots
//   out  s [slots]: softmax over slots at positions ≥ sinks of scale·μ'·k + ½ scale² kᵀΣ'k, mean over the group's query
//        heads; (s + eps)·‖v‖ with vnorm; slots of sinks = +inf
//        μ' = R̄μ, Σ' = R̄ΣR̄ᵀ, R̄ = mean rotation (attention factor included) of positions T … T + future − 1;
//   source: arXiv 2510.00636; NVIDIA/kvpress expected_attention_with_stats.py; deviations: double precision
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/engine/mean_rotation.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// softmax(z) over the slots from `begin` on, added to `sum`.
void add_softmax(const Eigen::VectorXd& z, Eigen::VectorXd& sum) {
  const Eigen::VectorXd p = (z.array() - z.maxCoeff()).exp().matrix();
  sum += p / p.sum();
}

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  const std::int64_t sinks = context.params.integer("sinks"), tokens = context.moment.tokens;
  const auto begin = static_cast<std::int64_t>(std::lower_bound(slots.position.begin(), slots.position.end(), sinks) -
                                               slots.position.begin());
  std::fill_n(out.s.begin(), begin, std::numeric_limits<float>::infinity());
  const std::int64_t n = slots.size() - begin, dim = slots.head_dim;
  if (n == 0) return;
  const Calibration& fitted = context.params.calibration("calib");
  const auto& means = fitted.tensor("mean", {card.layers, card.query_heads, dim});
  const auto& covariances = fitted.tensor("covariance", {card.layers, card.query_heads, dim, dim});

  const RopeSet& set =
      card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(context.layer)].rope_set)];
  const Array<double, 2> rotation = mean_rotation(set, dim, tokens, context.params.integer("future"));
  const Matrix r = Eigen::Map<const Matrix>(rotation.data(), dim, dim);
  const Matrix k = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                       slots.k.data() + begin * dim, n, dim)
                       .cast<double>();
  const auto scale = static_cast<double>(card.scale);
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(n);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::int64_t head = context.layer * card.query_heads + context.first_query_head() + h;
    const Eigen::VectorXd mean =
        Eigen::Map<const Eigen::VectorXf>(means.values.data() + head * dim, dim).cast<double>();
    const Eigen::VectorXd mu = r * mean;
    Eigen::VectorXd z = scale * (k * mu);
    if (context.params.boolean("cov")) {
      const Matrix sigma = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                               covariances.values.data() + head * dim * dim, dim, dim)
                               .cast<double>();
      const Matrix rotated = r * sigma * r.transpose();
      z += 0.5 * scale * scale * (k * rotated).cwiseProduct(k).rowwise().sum();
    }
    add_softmax(z, sum);
  }
  const bool vnorm = context.params.boolean("vnorm");
  const double eps = context.params.number("eps");
  for (std::int64_t i = 0; i < n; ++i) {
    double s = sum(i) / static_cast<double>(context.query_heads());
    if (vnorm) {
      double norm = 0;
      for (std::int64_t d = 0; d < dim; ++d) {
        const auto x = static_cast<double>(slots.v[static_cast<std::size_t>((begin + i) * dim + d)]);
        norm += x * x;
      }
      s = (s + eps) * std::sqrt(norm);
    }
    out.s[static_cast<std::size_t>(begin + i)] = static_cast<float>(s);
  }
}

}  // namespace

extern const ScoreRow expected_attention_stats;
const ScoreRow expected_attention_stats = {
    .name = "expected_attention_stats",
    .source = "arXiv 2510.00636; NVIDIA/kvpress expected_attention_press.py",
    .help = "attention that Gaussian queries, as other texts have them, would pay",
    .params =
        {{"future", ParamType::integer, "512", "positions ahead over which the rotation is averaged", 1, 1e7},
         {"sinks", ParamType::integer, "4", "first positions: always kept", 0, 1e6},
         {"cov", ParamType::boolean, "on", "use the covariance of the queries"},
         {"vnorm", ParamType::boolean, "on", "weigh by the norm of the value"},
         {"eps", ParamType::number, "0", "added before the value norm", 0, 1e6},
         {"calib", ParamType::calibration, "\"\"", "what kvgrind fit expected wrote", -1e300, 1e300, {"expected"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
