// A block a head, key cell and query cell: the rows of the call that lie in it.
#include "kernels/attention/attention_cuda.h"
#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 128;

__global__ void __launch_bounds__(threads) pool_kernel(const PooledMap a) {
  __shared__ float shared[32];
  const std::int64_t head = blockIdx.x, c = blockIdx.y, r = a.first / a.cell + blockIdx.z;
  const std::int64_t from = max(a.first, r * a.cell), to = min(a.first + a.n, (r + 1) * a.cell);
  if (c > r || from >= to) return;
  const std::int64_t key0 = c * a.cell, keys = min(a.slots, (c + 1) * a.cell) - key0;
  if (keys <= 0) return;
  float sum = 0.0f, most = 0.0f;
  for (std::int64_t e = threadIdx.x; e < (to - from) * keys; e += threads) {
    const std::int64_t row = from - a.first + e / keys, key = key0 + e % keys;
    const float p = a.p[(head * a.n + row) * a.slots + key];
    sum += p;
    most = p <= most ? most : p;  // lets NaN through
  }
  sum = block_sum(sum, shared);
  for (int lane = 16; lane > 0; lane /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, most, lane);
    most = other <= most ? most : other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < threads / 32; ++w) most = shared[w] <= most ? most : shared[w];
  const std::int64_t at = head * a.stride + r * (r + 1) / 2 + c;
  a.sum[at] += sum;
  if (!(most <= a.max[at])) a.max[at] = most;
}

}  // namespace

void pooled_map_cuda(const PooledMap& a, DeviceStream stream) {
  if (a.n == 0) return;
  const dim3 grid(static_cast<unsigned>(a.heads), static_cast<unsigned>((a.slots + a.cell - 1) / a.cell),
                  static_cast<unsigned>((a.first + a.n - 1) / a.cell - a.first / a.cell + 1));
  pool_kernel<<<grid, threads, 0, stream>>>(a);
  check_launch("pooling attention");
}

}  // namespace kvgrind::kernels
