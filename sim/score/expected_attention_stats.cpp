// Expected attention of future queries, taken as Gaussian before rotation, with statistics of other texts.
//   in   tensors "mean" [L, Hq, D] and "covariance" [L, Hq, D, D] of a calibration (pre-RoPE queries, first 4 positions
//        left out, divided by n − 1); keys (post-RoPE) and values of the slots
//   out  s [slots]: sim/engine/gaussian_queries.h
//   source: arXiv 2510.00636; NVIDIA/kvpress expected_attention_with_stats.py; deviations: double precision
#include "sim/engine/gaussian_queries.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const std::int64_t dim = context.slots().head_dim;
  const Calibration& fitted = context.params.calibration("calib");
  const auto& means = fitted.tensor("mean", {card.layers, card.query_heads, dim});
  const auto& covariances = fitted.tensor("covariance", {card.layers, card.query_heads, dim, dim});
  const auto queries = [&](std::int64_t query_head) {
    const std::int64_t head = context.layer * card.query_heads + query_head;
    GaussianQueries q{.mean = Eigen::Map<const Eigen::VectorXf>(means.values.data() + head * dim, dim).cast<double>()};
    if (context.params.boolean("cov"))
      q.covariance = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                         covariances.values.data() + head * dim * dim, dim, dim)
                         .cast<double>();
    return q;
  };
  score_by_gaussian_queries(context, queries, out);
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
