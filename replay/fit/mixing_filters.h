// Filters that mix what is dropped into a few slots, and the slope of what they lose.
#pragma once
#include <cstdint>
#include <vector>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {

struct MixingFilter {
  Eigen::MatrixXd w;     // [C, width · 2D]
  Eigen::RowVectorXd b;  // [C]
  double nu = 0.5;
};
// One KV head of one prompt: others (what is mixed), the rest of the cache, and the queries after the context.
struct MixingExample {
  Eigen::MatrixXd x;               // [n, width · 2D]
  Eigen::MatrixXd k, v;            // [n, D] of the others
  std::vector<std::int64_t> slot;  // [C] rows of x that are the slots themselves
  Eigen::MatrixXd q;               // [m, D], scaled
  Eigen::MatrixXd logit, value;    // [m, r], [r, D] of the rest of the cache; −∞ where a query does not see it
  Eigen::MatrixXd full;            // [m, D] output of the full cache
};

// ‖output − full‖² / ‖full‖²; adds its slope to `slope` unless null.
double mixing_loss(const MixingExample& example, const MixingFilter& filter, MixingFilter* slope);

}  // namespace kvgrind::replay
