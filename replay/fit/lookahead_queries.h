// Queries whose mean attention over a context is that of the answer to come.
#pragma once
#include <cstdint>
#include <vector>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {

// Σ want log(want / guess); both sum to 1.
double divergence(const Eigen::VectorXd& want, const Eigen::VectorXd& guess);
// Mean softmax of the queries [n, D] over keys [T, D] (both as attention sees them), and of divergence(want, that) the
// slope by each query, [n, D].
Eigen::VectorXd mean_softmax(const Rows& q, const Rows& k, double scale);
Eigen::MatrixXd divergence_slope(const Rows& q, const Rows& k, double scale, const Eigen::VectorXd& want);

}  // namespace kvgrind::replay
