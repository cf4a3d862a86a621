// Two kernels: a block a head for the sums of x and of moduli, and a block a head and 32 × 32 tile of the second moment.
#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/moments/query_moments_cuda.h"

namespace kvgrind::kernels {
namespace {

constexpr int tile = 32, rows_at_once = 64;

// Element d of query i, its rotation undone.
template <class T>
__device__ float unrotated(const QueryMomentSums& a, std::int64_t i, std::int64_t head, std::int64_t d) {
  const T* q = static_cast<const T*>(a.q) + (i * a.query_heads + head) * a.head_dim;
  const float own = to_float(q[d]);
  if (d >= 2 * a.half) return own;
  const bool low = d < a.half;
  const std::int64_t m = low ? d : d - a.half;
  const float other = to_float(q[low ? d + a.half : m]);
  const float c = a.table[(i * a.half + m) * 2], s = a.table[(i * a.half + m) * 2 + 1];
  // (x', y') = (x c − y s, x s + y c)
  return (own * c + (low ? other * s : -other * s)) / (c * c + s * s);
}

template <class T>
__global__ void __launch_bounds__(256) second_kernel(const QueryMomentSums a) {
  __shared__ float left[rows_at_once][tile + 1], right[rows_at_once][tile + 1];
  const std::int64_t head = blockIdx.x, D = a.head_dim;
  const std::int64_t row0 = blockIdx.y * tile, col0 = blockIdx.z * tile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  double total[2][2] = {};
  for (std::int64_t at = 0; at < a.n;) {
    const std::int64_t position = a.first + at, to_border = rows_at_once - position % rows_at_once;
    const std::int64_t rows = a.n - at < to_border ? a.n - at : to_border;
    __syncthreads();
    for (int e = threadIdx.x; e < rows_at_once * tile; e += blockDim.x) {
      const int i = e / tile, d = e % tile;
      left[i][d] = i < rows && row0 + d < D ? unrotated<T>(a, at + i, head, row0 + d) : 0.0f;
      right[i][d] = i < rows && col0 + d < D ? unrotated<T>(a, at + i, head, col0 + d) : 0.0f;
    }
    __syncthreads();
    float sum[2][2] = {};
    for (int i = 0; i < rows; ++i)
#pragma unroll
      for (int u = 0; u < 2; ++u)
#pragma unroll
        for (int v = 0; v < 2; ++v) sum[u][v] = fmaf(left[i][2 * ty + u], right[i][2 * tx + v], sum[u][v]);
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int v = 0; v < 2; ++v) total[u][v] += static_cast<double>(sum[u][v]);
    at += rows;
  }
  for (int u = 0; u < 2; ++u)
    for (int v = 0; v < 2; ++v) {
      const std::int64_t r = row0 + 2 * ty + u, c = col0 + 2 * tx + v;
      if (r < D && c < D) a.second[(head * D + r) * D + c] += total[u][v];
    }
}

// Eight queries side by side, each lane one of D values: the first D of mean, then (D / 2) of modulus.
constexpr int lanes = 32, side_by_side = 8;

template <class T>
__global__ void __launch_bounds__(lanes* side_by_side) first_kernel(const QueryMomentSums a) {
  __shared__ double part[side_by_side][lanes];
  const std::int64_t head = blockIdx.x, D = a.head_dim, value = blockIdx.y * lanes + threadIdx.x;
  const std::int64_t rest = (D - 2 * a.half) / 2;
  double sum = 0.0;
  if (value < D + D / 2)
    for (std::int64_t i = threadIdx.y; i < a.n; i += side_by_side) {
      if (value < D) {
        sum += static_cast<double>(unrotated<T>(a, i, head, value));
      } else {
        const std::int64_t d = value - D;
        const double re = unrotated<T>(a, i, head, d < a.half ? d : d + a.half);
        const double im = unrotated<T>(a, i, head, d < a.half ? d + a.half : d + a.half + rest);
        sum += sqrt(re * re + im * im);
      }
    }
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || value >= D + D / 2) return;
  for (int y = 1; y < side_by_side; ++y) sum += part[y][threadIdx.x];
  if (value < D)
    a.mean[head * D + value] += sum;
  else
    a.modulus[head * (D / 2) + value - D] += sum;
}

template <class T>
void launch(const QueryMomentSums& a, DeviceStream stream) {
  const auto tiles = static_cast<unsigned>((a.head_dim + tile - 1) / tile);
  const auto heads = static_cast<unsigned>(a.query_heads);
  const auto values = static_cast<unsigned>((a.head_dim + a.head_dim / 2 + lanes - 1) / lanes);
  first_kernel<T><<<dim3(heads, values), dim3(lanes, side_by_side), 0, stream>>>(a);
  check_launch("moments of queries");
  second_kernel<T><<<dim3(heads, tiles, tiles), 256, 0, stream>>>(a);
  check_launch("moments of queries");
}

}  // namespace

void query_moments_cuda(const QueryMomentSums& a, DeviceStream stream) {
  if (a.n == 0) return;
  if (a.dtype == DType::bf16)
    launch<bf16>(a, stream);
  else
    launch<float>(a, stream);
}

}  // namespace kvgrind::kernels
