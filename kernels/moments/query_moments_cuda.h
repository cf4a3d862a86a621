// Running moments of queries before their rotation, on the device: what traces/kvt/query_moments.h sums on the host.
//   in   q [n, Hq, D] of dtype, post-RoPE; table [n, half, 2] of (cos, sin) · factor at their positions
//   out  mean [Hq, D] += Σ x, modulus [Hq, D/2] += Σ |pair|, second [Hq, D, D] += Σ x xᵀ; double
// x is q with its rotation undone in fp32 (pairs (m, m + half), then (2 half + i, 2 half + (D − 2 half)/2 + i) of the
// dims that pass through). Products are summed in fp32 within absolute blocks of 64 queries, and blocks in double, so
// that cutting the queries at multiples of 64 changes no bit.
// Roofline: 2 · D² flops a query and head in fp32; q is read D / 32 times from L2.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

struct QueryMomentSums {
  DType dtype = DType::f32;  // f32 or bf16
  const void* q = nullptr;
  std::int64_t n = 0, first = 0;  // queries at positions first, first + 1, …
  std::int64_t query_heads = 0, head_dim = 0;
  const float* table = nullptr;
  std::int64_t half = 0;
  double *mean = nullptr, *modulus = nullptr, *second = nullptr;
};
void query_moments_cuda(const QueryMomentSums& params, DeviceStream stream);

}  // namespace kvgrind::kernels
