// Prefill in bf16 on the tensor cores. One block: 128 queries of one head, four warps of 32 rows; keys in tiles of 64,
// k and v each in one shared tile that refills while the other is in use; online softmax in base 2.
#include "core/error.h"
#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/general.cuh"
#include "kernels/device/check_cuda.h"
#include "kernels/device/mma.cuh"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int rows_per_block = 128, keys_per_tile = 64, threads = 128;

template <int D>
struct PrefillShared {
  static constexpr int stride = D + 8;  // 16 bytes more: rows fall on different banks for ldmatrix
  bf16 q[rows_per_block][stride], k[keys_per_tile][stride], v[keys_per_tile][stride];
};

template <int D>
__device__ void load_tile(bf16 (*tile)[D + 8], const bf16* from, std::int64_t row_stride, int rows_valid, int rows) {
  constexpr int pieces = D / 8;
  for (int i = threadIdx.x; i < rows * pieces; i += threads) {
    const int row = i / pieces, piece = i % pieces;
    const bool valid = row < rows_valid;
    copy_async_16(shared_address(&tile[row][piece * 8]), from + (valid ? row * row_stride : 0) + piece * 8, valid);
  }
}

template <int D>
__global__ void __launch_bounds__(threads, 2) prefill_kernel(const AttentionPrefill a) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto& shared = *reinterpret_cast<PrefillShared<D>*>(raw);
  constexpr int depth = D / 16, tiles_n = keys_per_tile / 8, tiles_d = D / 8;

  const int head = blockIdx.x;
  const std::int64_t row0 = static_cast<std::int64_t>(gridDim.y - 1 - blockIdx.y) * rows_per_block;  // longest first
  const int group = static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const std::int64_t q_stride = a.shape.query_heads * D;
  const auto* q = static_cast<const bf16*>(a.q) + row0 * q_stride + head * D;
  const auto* k = static_cast<const bf16*>(a.cache.k) + (head / group) * a.cache.head_stride;
  const auto* v = static_cast<const bf16*>(a.cache.v) + (head / group) * a.cache.head_stride;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  const int q_first = static_cast<int>(a.first + row0);
  const int q_last = static_cast<int>(a.first + (row0 + rows_per_block < a.n ? row0 + rows_per_block : a.n)) - 1;
  const int window = static_cast<int>(a.shape.window), slots = static_cast<int>(a.first + a.n);
  int begin = window > 0 && q_first - window + 1 > 0 ? q_first - window + 1 : 0;
  begin = begin / keys_per_tile * keys_per_tile;

  load_tile<D>(shared.q, q, q_stride, static_cast<int>(a.n - row0), rows_per_block);
  load_tile<D>(shared.k, k + static_cast<std::int64_t>(begin) * D, D, slots - begin, keys_per_tile);
  copy_async_commit();

  float o[2][tiles_d][4] = {};
  // Contracted or not, a product here and there must round the same in every row: explicit roundings throughout.
  float largest[2][2], sum[2][2] = {};  // largest logit so far, in base 2
  for (auto& pair : largest) pair[0] = pair[1] = -INFINITY;
  const bool capped = a.shape.softcap != 0.0f;
  const float unit = capped ? log2e : a.shape.scale * log2e;

  const std::uint32_t q_address = shared_address(&shared.q[warp * 32 + (lane / 8 % 2) * 8 + lane % 8][lane / 16 * 8]);
  const std::uint32_t k_address = shared_address(&shared.k[lane / 16 * 8 + lane % 8][lane / 8 % 2 * 8]);
  const std::uint32_t v_address = shared_address(&shared.v[lane / 8 % 2 * 8 + lane % 8][lane / 16 * 8]);
  constexpr std::uint32_t row_bytes = PrefillShared<D>::stride * sizeof(bf16);

  for (int key0 = begin; key0 <= q_last; key0 += keys_per_tile) {
    copy_async_wait<0>();
    __syncthreads();
    load_tile<D>(shared.v, v + static_cast<std::int64_t>(key0) * D, D, slots - key0, keys_per_tile);
    copy_async_commit();

    float s[2][tiles_n][4] = {};
#pragma unroll
    for (int d = 0; d < depth; ++d) {
      std::uint32_t qa[2][4];
      load_matrix_x4(qa[0], q_address + d * 32);
      load_matrix_x4(qa[1], q_address + 16 * row_bytes + d * 32);
#pragma unroll
      for (int j = 0; j < tiles_n; j += 2) {
        std::uint32_t kb[4];
        load_matrix_x4(kb, k_address + j * 8 * row_bytes + d * 32);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(s[m][j], qa[m], kb[0], kb[1]);
          mma_bf16(s[m][j + 1], qa[m], kb[2], kb[3]);
        }
      }
    }
    copy_async_wait<0>();
    __syncthreads();
    if (key0 + keys_per_tile <= q_last) {
      load_tile<D>(shared.k, k + static_cast<std::int64_t>(key0 + keys_per_tile) * D, D, slots - key0 - keys_per_tile,
                   keys_per_tile);
      copy_async_commit();
    }

    if (capped) {
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < tiles_n; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            s[m][j][e] = a.shape.softcap * tanhf(s[m][j][e] * a.shape.scale / a.shape.softcap);
    }
    const int ahead = static_cast<int>(q_first + warp * 32 - key0);  // this warp's first query − the tile's first key
    const bool masks = ahead < keys_per_tile - 1 || (window > 0 && ahead + 31 >= window);
    if (masks) {
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < tiles_n; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int distance = ahead + m * 16 + g + e / 2 * 8 - (j * 8 + 2 * t + e % 2);
            if (distance < 0 || (window > 0 && distance >= window)) s[m][j][e] = -INFINITY;
          }
    }

#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < tiles_n; ++j) top = fmaxf(top, fmaxf(s[m][j][2 * r], s[m][j][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(largest[m][r], __fmul_rn(top, unit));
        const float base = top == -INFINITY ? 0.0f : top;
        const float shrink = exp2_fast(__fsub_rn(largest[m][r], base));
        largest[m][r] = top;
        float part = 0.0f;
#pragma unroll
        for (int j = 0; j < tiles_n; ++j) {
          s[m][j][2 * r] = exp2_fast(fmaf(s[m][j][2 * r], unit, -base));
          s[m][j][2 * r + 1] = exp2_fast(fmaf(s[m][j][2 * r + 1], unit, -base));
          part += s[m][j][2 * r] + s[m][j][2 * r + 1];
        }
        sum[m][r] = fmaf(sum[m][r], shrink, part);
#pragma unroll
        for (int d = 0; d < tiles_d; ++d) {
          o[m][d][2 * r] *= shrink;
          o[m][d][2 * r + 1] *= shrink;
        }
      }

#pragma unroll
    for (int kk = 0; kk < keys_per_tile / 16; ++kk) {
      std::uint32_t pa[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        pa[m][0] = pack_bf16(s[m][2 * kk][0], s[m][2 * kk][1]);
        pa[m][1] = pack_bf16(s[m][2 * kk][2], s[m][2 * kk][3]);
        pa[m][2] = pack_bf16(s[m][2 * kk + 1][0], s[m][2 * kk + 1][1]);
        pa[m][3] = pack_bf16(s[m][2 * kk + 1][2], s[m][2 * kk + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < tiles_d; d += 2) {
        std::uint32_t vb[4];
        load_matrix_x4_transposed(vb, v_address + kk * 16 * row_bytes + d * 16);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(o[m][d], pa[m], vb[0], vb[1]);
          mma_bf16(o[m][d + 1], pa[m], vb[2], vb[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[m][r];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const std::int64_t row = row0 + warp * 32 + m * 16 + r * 8 + g;
      float base = largest[m][r], factor = 1.0f;
      if (a.shape.sinks) {
        const float sink = __fmul_rn(a.shape.sinks[head], log2e);
        const float top = fmaxf(base, sink);
        factor = exp2_fast(base - top);
        total = fmaf(total, factor, exp2_fast(sink - top));
        base = top;
      }
      factor /= total;
      if (row >= a.n) continue;
      auto* out = static_cast<bf16*>(a.out) + row * q_stride + head * D;
#pragma unroll
      for (int d = 0; d < tiles_d; ++d)
        *reinterpret_cast<std::uint32_t*>(out + d * 8 + 2 * t) =
            pack_bf16(o[m][d][2 * r] * factor, o[m][d][2 * r + 1] * factor);
      if (t == 0) a.lse[row * a.shape.query_heads + head] = (base + log2f(total)) * ln2;
    }
}

template <int D>
void launch(const AttentionPrefill& a, DeviceStream stream) {
  constexpr int bytes = sizeof(PrefillShared<D>);
  check_cuda(cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "preparing attention");
  const dim3 grid(static_cast<unsigned>(a.shape.query_heads),
                  static_cast<unsigned>((a.n + rows_per_block - 1) / rows_per_block));
  prefill_kernel<D><<<grid, threads, bytes, stream>>>(a);
  check_launch("attention over a prompt");
}

}  // namespace

void attention_prefill_cuda(const AttentionPrefill& a, DeviceStream stream) {
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
  attention_general(a, stream);
}

}  // namespace kvgrind::kernels
