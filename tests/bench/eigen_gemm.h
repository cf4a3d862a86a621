// Eigen's product, compiled for AVX-512, as the other side of the linear benchmark.
#pragma once
#include <cstdint>

namespace kvgrind::bench {

bool eigen_runs_here();
// y [M, N] = x [M, K] · w [N, K]ᵀ, all dense fp32
void eigen_gemm(const float* x, const float* w, float* y, std::int64_t m, std::int64_t n, std::int64_t k);

}  // namespace kvgrind::bench
