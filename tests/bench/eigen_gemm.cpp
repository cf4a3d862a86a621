#include "tests/bench/eigen_gemm.h"

#include <Eigen/Dense>

namespace kvgrind::bench {

bool eigen_runs_here() { return __builtin_cpu_supports("x86-64-v4"); }

void eigen_gemm(const float* x, const float* w, float* y, std::int64_t m, std::int64_t n, std::int64_t k) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<Matrix> out(y, m, n);
  out.noalias() = Eigen::Map<const Matrix>(x, m, k) * Eigen::Map<const Matrix>(w, n, k).transpose();
}

}  // namespace kvgrind::bench
