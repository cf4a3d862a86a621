// Column sums and rows of probabilities in fp32 arithmetic, for fp32 runs and for what the tensor-core kernel does not
// take.
#include <cassert>
#include <type_traits>

#include "kernels/attention/general.cuh"
#include "kernels/attention/score_tile.cuh"
#include "kernels/device/check_cuda.h"

namespace kvgrind::kernels {
namespace {

template <int DP>
struct SumShared {
  float q[tile * tile_stride<DP>], k[tile * tile_stride<DP>], part[16][tile];
};

// One block: 64 keys of one query head, over all absolute blocks of 64 queries that may see them, in order.
template <int DP, class T>
__global__ void __launch_bounds__(tile_threads) sum_kernel(const ColumnSums a) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto& shared = *reinterpret_cast<SumShared<DP>*>(raw);
  const int head = blockIdx.y, dims = static_cast<int>(a.shape.head_dim);
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int cache_head = head / static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const std::int64_t key0 = static_cast<std::int64_t>(blockIdx.x) * tile, end = a.first + a.n;
  const std::int64_t row_stride = a.shape.query_heads * dims;
  const auto* k = static_cast<const T*>(a.cache.k) + cache_head * a.cache.head_stride;

  load_rows<DP>(shared.k, k + key0 * dims, dims, end - key0, dims);
  const bool owner = threadIdx.x < tile && key0 + threadIdx.x < end;
  float total = owner ? a.sum[head * a.sum_stride + key0 + threadIdx.x] : 0.0f;

  std::int64_t block0 = (a.first > key0 ? a.first : key0) / tile * tile;
  const std::int64_t last =
      a.shape.window > 0 && key0 + tile - 1 + a.shape.window < end ? key0 + tile - 1 + a.shape.window : end;
  for (; block0 < last; block0 += tile) {
    const std::int64_t from = block0 < a.first ? a.first : block0;
    const std::int64_t to = block0 + tile < end ? block0 + tile : end;
    __syncthreads();
    load_rows<DP>(shared.q, static_cast<const T*>(a.q) + (from - a.first) * row_stride + head * dims, row_stride,
                  to - from, dims);
    __syncthreads();
    float s[4][4], column[4] = {};
    dot_tile<DP>(shared.q, shared.k, ty, tx, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t query = from + 4 * ty + i;
      if (query >= to) continue;
      const float lse = a.lse[(query - a.first) * a.shape.query_heads + head];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (sees(query, key0 + tx + 16 * j, a.shape.window))
          column[j] += expf(finish_logit(s[i][j], a.shape.scale, a.shape.softcap) - lse);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) shared.part[ty][tx + 16 * j] = column[j];
    __syncthreads();
    if (owner) {
      float block = 0.0f;
      for (int row = 0; row < 16; ++row) block += shared.part[row][threadIdx.x];
      total += block;
    }
  }
  if (owner) a.sum[head * a.sum_stride + key0 + threadIdx.x] = total;
}

template <int DP>
struct RowShared {
  float q[tile * tile_stride<DP>], k[tile * tile_stride<DP>];
};

template <int DP, class T>
__global__ void __launch_bounds__(tile_threads) probability_kernel(const AttentionProbabilities a) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto& shared = *reinterpret_cast<RowShared<DP>*>(raw);
  const int head = blockIdx.y, dims = static_cast<int>(a.shape.head_dim);
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int cache_head = head / static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const std::int64_t key0 = static_cast<std::int64_t>(blockIdx.x) * tile;
  const std::int64_t row_stride = a.shape.query_heads * dims;
  const auto* k = static_cast<const T*>(a.cache.k) + cache_head * a.cache.head_stride;
  load_rows<DP>(shared.k, k + key0 * dims, dims, a.slots - key0, dims);
  load_rows<DP>(shared.q, static_cast<const T*>(a.q) + head * dims, row_stride, a.n, dims);
  __syncthreads();
  float s[4][4];
  dot_tile<DP>(shared.q, shared.k, ty, tx, s);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t row = 4 * ty + i;
    if (row >= a.n) continue;
    const float lse = a.lse[row * a.shape.query_heads + head];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t key = key0 + tx + 16 * j;
      if (key >= a.slots) continue;
      a.p[(head * a.n + row) * a.slots + key] = sees(a.first + row, key, a.shape.window)
                                                    ? expf(finish_logit(s[i][j], a.shape.scale, a.shape.softcap) - lse)
                                                    : 0.0f;
    }
  }
}

template <class T>
void launch_sums(const ColumnSums& a, DeviceStream stream) {
  with_padded_dim(a.shape.head_dim, [&](auto padded) {
    constexpr int DP = decltype(padded)::value;
    constexpr int bytes = sizeof(SumShared<DP>);
    check_cuda(cudaFuncSetAttribute(sum_kernel<DP, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "preparing column sums");
    const dim3 grid(static_cast<unsigned>((a.first + a.n + tile - 1) / tile),
                    static_cast<unsigned>(a.shape.query_heads));
    sum_kernel<DP, T><<<grid, tile_threads, bytes, stream>>>(a);
    check_launch("column sums in fp32");
  });
}

template <class T>
void launch_rows(const AttentionProbabilities& a, DeviceStream stream) {
  with_padded_dim(a.shape.head_dim, [&](auto padded) {
    constexpr int DP = decltype(padded)::value;
    constexpr int bytes = sizeof(RowShared<DP>);
    check_cuda(cudaFuncSetAttribute(probability_kernel<DP, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "preparing probabilities");
    const dim3 grid(static_cast<unsigned>((a.slots + tile - 1) / tile), static_cast<unsigned>(a.shape.query_heads));
    probability_kernel<DP, T><<<grid, tile_threads, bytes, stream>>>(a);
    check_launch("rows of probabilities");
  });
}

}  // namespace

void column_sums_general(const ColumnSums& a, DeviceStream stream) {
  assert(a.shape.head_dim <= 256);
  a.shape.dtype == DType::bf16 ? launch_sums<bf16>(a, stream) : launch_sums<float>(a, stream);
}

void attention_probabilities_cuda(const AttentionProbabilities& a, DeviceStream stream) {
  assert(a.shape.head_dim <= 256 && a.n <= tile);
  if (a.n == 0 || a.slots == 0) return;
  a.shape.dtype == DType::bf16 ? launch_rows<bf16>(a, stream) : launch_rows<float>(a, stream);
}

}  // namespace kvgrind::kernels
