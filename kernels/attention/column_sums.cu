// Column sums in bf16 on the tensor cores. One block: 128 keys of one query head, their fragments resident in
// registers (32 keys a warp); queries in absolute blocks of 64 through two shared tiles; p = 2^(q·k·unit − LSE·log2 e).
#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/general.cuh"
#include "kernels/device/check_cuda.h"
#include "kernels/device/mma.cuh"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int keys_per_block = 128, queries_per_tile = 64, queries_at_once = 32, threads = 128;

template <int D>
struct SumShared {
  static constexpr int stride = D + 8;
  bf16 q[2][queries_per_tile][stride];  // the keys pass through here first
  float lse[2][queries_per_tile];       // in base 2; +inf for rows that do not exist
};
static_assert(keys_per_block == 2 * queries_per_tile);

template <int D>
__global__ void __launch_bounds__(threads, 3) sum_kernel(const ColumnSums a) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto& shared = *reinterpret_cast<SumShared<D>*>(raw);
  constexpr int depth = D / 16, pieces = D / 8, tiles_n = queries_at_once / 8;
  constexpr std::uint32_t row_bytes = SumShared<D>::stride * sizeof(bf16);
  const int head = blockIdx.x;
  const std::int64_t key0 = static_cast<std::int64_t>(blockIdx.y) * keys_per_block;  // earliest keys first: longest
  const int group = static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const std::int64_t row_stride = a.shape.query_heads * D, end = a.first + a.n, window = a.shape.window;
  const auto* k = static_cast<const bf16*>(a.cache.k) + (head / group) * a.cache.head_stride + key0 * D;
  const auto* q = static_cast<const bf16*>(a.q) + head * D;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const bool capped = a.shape.softcap != 0.0f;
  const float unit = capped ? log2e : a.shape.scale * log2e;

  bf16(*key_tile)[D + 8] = &shared.q[0][0];
  for (int i = threadIdx.x; i < keys_per_block * pieces; i += threads) {
    const int row = i / pieces, piece = i % pieces;
    const bool valid = key0 + row < end;
    copy_async_16(shared_address(&key_tile[row][piece * 8]), k + (valid ? row * D : 0) + piece * 8, valid);
  }
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  std::uint32_t ka[2][depth][4];
  const std::uint32_t k_address = shared_address(&key_tile[warp * 32 + (lane / 8 % 2) * 8 + lane % 8][lane / 16 * 8]);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int d = 0; d < depth; ++d) load_matrix_x4(ka[m][d], k_address + m * 16 * row_bytes + d * 32);
  __syncthreads();

  auto load_queries = [&](std::int64_t block0, int buffer) {
    for (int i = threadIdx.x; i < queries_per_tile * pieces; i += threads) {
      const int row = i / pieces, piece = i % pieces;
      const std::int64_t query = block0 + row;
      const bool valid = query >= a.first && query < end;
      copy_async_16(shared_address(&shared.q[buffer][row][piece * 8]),
                    q + (valid ? (query - a.first) * row_stride : 0) + piece * 8, valid);
    }
    if (threadIdx.x < queries_per_tile) {
      const std::int64_t query = block0 + threadIdx.x;
      shared.lse[buffer][threadIdx.x] =
          query >= a.first && query < end ? a.lse[(query - a.first) * a.shape.query_heads + head] * log2e : INFINITY;
    }
    copy_async_commit();
  };

  std::int64_t block0 = (a.first > key0 ? a.first : key0) / queries_per_tile * queries_per_tile;
  const std::int64_t last =
      window > 0 && key0 + keys_per_block - 1 + window < end ? key0 + keys_per_block - 1 + window : end;
  const std::int64_t warp_key = key0 + warp * 32;
  float total[2][2];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t key = warp_key + m * 16 + r * 8 + g;
      total[m][r] = key < end ? a.sum[head * a.sum_stride + key] : 0.0f;
    }

  if (block0 < last) load_queries(block0, 0);
  for (int buffer = 0; block0 < last; block0 += queries_per_tile, buffer ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (block0 + queries_per_tile < last) load_queries(block0 + queries_per_tile, buffer ^ 1);
    const bool masks = block0 < warp_key + 31 || (window > 0 && block0 + queries_per_tile - 1 - warp_key >= window);
    const int ahead = static_cast<int>(block0 - warp_key);
    float part[2][2] = {};
#pragma unroll 1
    for (int row0 = 0; row0 < queries_per_tile; row0 += queries_at_once) {
      const std::uint32_t q_address =
          shared_address(&shared.q[buffer][row0 + lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8]);
      float s[2][tiles_n][4] = {};
#pragma unroll
      for (int d = 0; d < depth; ++d)
#pragma unroll
        for (int j = 0; j < tiles_n; j += 2) {
          std::uint32_t qb[4];
          load_matrix_x4(qb, q_address + j * 8 * row_bytes + d * 32);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            mma_bf16(s[m][j], ka[m][d], qb[0], qb[1]);
            mma_bf16(s[m][j + 1], ka[m][d], qb[2], qb[3]);
          }
        }
#pragma unroll
      for (int j = 0; j < tiles_n; ++j) {
        const float2 lse = *reinterpret_cast<const float2*>(&shared.lse[buffer][row0 + j * 8 + 2 * t]);
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float x = s[m][j][e];
            if (capped) x = a.shape.softcap * tanhf(x * a.shape.scale / a.shape.softcap);
            float p = exp2_fast(fmaf(x, unit, e % 2 ? -lse.y : -lse.x));
            if (masks) {
              const int distance = ahead + row0 + j * 8 + 2 * t + e % 2 - (m * 16 + e / 2 * 8 + g);
              if (distance < 0 || (window > 0 && distance >= window)) p = 0.0f;
            }
            part[m][e / 2] += p;
          }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        part[m][r] += __shfl_xor_sync(0xffffffffu, part[m][r], 1);
        part[m][r] += __shfl_xor_sync(0xffffffffu, part[m][r], 2);
        total[m][r] += part[m][r];
      }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t key = warp_key + m * 16 + r * 8 + g;
      if (t == 0 && key < end) a.sum[head * a.sum_stride + key] = total[m][r];
    }
}

template <int D>
void launch(const ColumnSums& a, DeviceStream stream) {
  constexpr int bytes = sizeof(SumShared<D>);
  check_cuda(cudaFuncSetAttribute(sum_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "preparing column sums");
  const dim3 grid(static_cast<unsigned>(a.shape.query_heads),
                  static_cast<unsigned>((a.first + a.n + keys_per_block - 1) / keys_per_block));
  sum_kernel<D><<<grid, threads, bytes, stream>>>(a);
  check_launch("column sums");
}

}  // namespace

void column_sums_cuda(const ColumnSums& a, DeviceStream stream) {
  if (a.n == 0) return;
  if (a.shape.dtype == DType::bf16) {
    switch (a.shape.head_dim) {
      case 32:
        return launch<32>(a, stream);
      case 64:
        return launch<64>(a, stream);
      case 96:
        return launch<96>(a, stream);
      case 128:
        return launch<128>(a, stream);
      default:
        break;
    }
  }
  column_sums_general(a, stream);
}

}  // namespace kvgrind::kernels
