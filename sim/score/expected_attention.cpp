// Expected attention of future queries, taken as Gaussian before rotation.
//   in   mean and second moment of the pre-RoPE queries at positions ≥ sinks, keys (post-RoPE) and values of the slots;
//        Σ divides by n
//   out  s [slots]: sim/engine/gaussian_queries.h
//   errors: no queries at positions ≥ sinks throws Error(usage)
//   source: arXiv 2510.00636; NVIDIA/kvpress expected_attention_press.py; deviations: double precision
#include "core/error.h"
#include "sim/engine/gaussian_queries.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const auto queries = [&](std::int64_t query_head) {
    const QueryStatistics statistics = context.signals.query_statistics(
        context.layer, query_head, context.params.integer("sinks"), context.moment.tokens);
    if (statistics.n == 0)
      throw Error(Category::usage, {.doing = "scoring by expected attention",
                                    .found = "no query behind the sinks",
                                    .expected = "more tokens than sinks"});
    const std::int64_t dim = context.slots().head_dim;
    GaussianQueries q{.mean = Eigen::Map<const Eigen::VectorXf>(statistics.mean.data(), dim).cast<double>()};
    if (context.params.boolean("cov")) {
      q.covariance = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                         statistics.second_moment.data(), dim, dim)
                         .cast<double>();
      q.covariance -= q.mean * q.mean.transpose();
    }
    return q;
  };
  score_by_gaussian_queries(context, queries, out);
}

}  // namespace

extern const ScoreRow expected_attention;
const ScoreRow expected_attention = {
    .name = "expected_attention",
    .source = "arXiv 2510.00636; NVIDIA/kvpress expected_attention_press.py",
    .help = "attention that Gaussian future queries would pay",
    .params = {{"future", ParamType::integer, "512", "positions ahead over which the rotation is averaged", 1, 1e7},
               {"sinks", ParamType::integer, "4", "first positions: always kept, left out of the statistics", 0, 1e6},
               {"cov", ParamType::boolean, "on", "use the covariance of the queries"},
               {"vnorm", ParamType::boolean, "on", "weigh by the norm of the value"},
               {"eps", ParamType::number, "0", "added before the value norm", 0, 1e6}},
    .needs = {Signal::query_statistics},
    .score = score,
};

}  // namespace kvgrind::sim::scores
