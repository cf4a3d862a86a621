// Attention that queries of a Gaussian before rotation would pay, over the positions to come.
#pragma once
#include <Eigen/Core>
#include <functional>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// Pre-RoPE queries of one query head.
struct GaussianQueries {
  Eigen::VectorXd mean;                                                                    // [D]
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> covariance = {};  // [D, D]; empty = not used
};

// Parameters read: sinks, future, vnorm, eps.
//   out  s [slots]: softmax over slots at positions ≥ sinks of scale·μ'·k + ½ scale² kᵀΣ'k, mean over the group's query
//        heads; (s + eps)·‖v‖ with vnorm; slots of sinks = +inf
//        μ' = R̄μ, Σ' = R̄ΣR̄ᵀ, R̄ = mean rotation (attention factor included) of positions T … T + future − 1
// `queries` is asked once for each query head of the group, numbered within the layer; not when no slot is left.
void score_by_gaussian_queries(const ScoreContext& context,
                               const std::function<GaussianQueries(std::int64_t query_head)>& queries, Columns& out);

}  // namespace kvgrind::sim
