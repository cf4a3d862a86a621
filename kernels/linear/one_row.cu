// y = x · Wᵀ for a single row x: memory bound, W read once. One warp an output: its lanes walk the row of W in 16-byte
// pieces, eight in flight, against x in shared memory; fp32 sums in a fixed order.
#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/linear/one_row.h"

namespace kvgrind::kernels {
namespace {

constexpr int warps = 8, in_flight = 8;

__device__ float dot_pair(std::uint32_t a, std::uint32_t b, float sum) {
  const float2 x = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&a));
  const float2 y = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&b));
  return fmaf(x.y, y.y, fmaf(x.x, y.x, sum));
}
__device__ float dot_piece(const uint4& a, const uint4& b, float sum) {
  return dot_pair(a.w, b.w, dot_pair(a.z, b.z, dot_pair(a.y, b.y, dot_pair(a.x, b.x, sum))));
}

template <class Out>
__global__ void __launch_bounds__(warps * 32)
    one_row_kernel(const uint4* x, const uint4* w, int n, int pieces, Out* y, bool accumulate) {
  extern __shared__ uint4 shared[];
  for (int i = threadIdx.x; i < pieces; i += warps * 32) shared[i] = x[i];
  __syncthreads();
  const int row = static_cast<int>(blockIdx.x) * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= n) return;
  const uint4* from = w + static_cast<std::int64_t>(row) * pieces;
  float sum = 0.0f;
  int i = lane;
  for (; i + 32 * (in_flight - 1) < pieces; i += 32 * in_flight) {
    uint4 piece[in_flight];
#pragma unroll
    for (int j = 0; j < in_flight; ++j) piece[j] = __ldcs(from + i + 32 * j);
#pragma unroll
    for (int j = 0; j < in_flight; ++j) sum = dot_piece(piece[j], shared[i + 32 * j], sum);
  }
  for (; i < pieces; i += 32) sum = dot_piece(__ldcs(from + i), shared[i], sum);
  sum = warp_sum(sum);
  if (lane == 0) y[row] = from_float<Out>(accumulate ? sum + to_float(y[row]) : sum);
}

}  // namespace

bool one_row_fits(std::int64_t k) { return k % 8 == 0 && k * 2 <= 48 << 10; }

void multiply_one_row(const void* x, const void* w, std::int64_t n, std::int64_t k, DType out, void* y, bool accumulate,
                      DeviceStream stream) {
  const auto blocks = static_cast<unsigned>((n + warps - 1) / warps);
  const int pieces = static_cast<int>(k / 8);
  const auto* from = static_cast<const uint4*>(x);
  const auto* weights = static_cast<const uint4*>(w);
  if (out == DType::bf16)
    one_row_kernel<<<blocks, warps * 32, pieces * 16, stream>>>(from, weights, static_cast<int>(n), pieces,
                                                                static_cast<bf16*>(y), accumulate);
  else
    one_row_kernel<<<blocks, warps * 32, pieces * 16, stream>>>(from, weights, static_cast<int>(n), pieces,
                                                                static_cast<float*>(y), accumulate);
  check_launch("a product of one row");
}

}  // namespace kvgrind::kernels
