// Attention in fp32 arithmetic over plain or ragged caches. One block: up to 64 queries of one absolute block of 64,
// one head; keys in tiles of 64; online softmax. k and v take turns in one shared tile.
#include <cassert>
#include <type_traits>

#include "kernels/attention/general.cuh"
#include "kernels/attention/score_tile.cuh"
#include "kernels/device/check_cuda.h"

namespace kvgrind::kernels {
namespace {

template <class TQ>
struct Args {
  AttentionShape shape;
  const TQ* q;
  TQ* out;
  float* lse;
  std::int64_t n, first;
  PlainCache cache;
  const DeviceGroup* groups;  // null: the plain cache
};

template <int DP>
struct GeneralShared {
  float q[tile * tile_stride<DP>], kv[tile * tile_stride<DP>], p[tile][tile + 4];
};

template <int DP, class TQ, class TKV>
__global__ void __launch_bounds__(tile_threads) general_kernel(const Args<TQ> a) {
  extern __shared__ __align__(16) unsigned char raw[];
  auto& shared = *reinterpret_cast<GeneralShared<DP>*>(raw);
  constexpr int pieces = DP >= 64 ? DP / 64 : 1;
  const int head = blockIdx.x, dims = static_cast<int>(a.shape.head_dim);
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int cache_head = head / static_cast<int>(a.shape.query_heads / a.shape.cache_heads);

  // Rows of this block: positions [from, to), one absolute block of 64.
  const std::int64_t block0 = (a.first / tile + (gridDim.y - 1 - blockIdx.y)) * tile;
  const std::int64_t from = block0 < a.first ? a.first : block0;
  const std::int64_t to = block0 + tile < a.first + a.n ? block0 + tile : a.first + a.n;
  const std::int64_t row_stride = a.shape.query_heads * dims;

  const TKV* k;
  const TKV* v;
  const std::int64_t* position = nullptr;
  const float* log_count = nullptr;
  std::int64_t begin = 0, end;
  if (a.groups) {
    const DeviceGroup group = a.groups[cache_head];
    k = static_cast<const TKV*>(group.k), v = static_cast<const TKV*>(group.v);
    position = group.position, log_count = group.log_count, end = group.n;
  } else {
    k = static_cast<const TKV*>(a.cache.k) + cache_head * a.cache.head_stride;
    v = static_cast<const TKV*>(a.cache.v) + cache_head * a.cache.head_stride;
    end = to;
    if (a.shape.window > 0 && from - a.shape.window + 1 > 0) begin = (from - a.shape.window + 1) / tile * tile;
  }

  load_rows<DP>(shared.q, a.q + (from - a.first) * row_stride + head * dims, row_stride, to - from, dims);
  float o[4][pieces][4] = {};
  float largest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, sum[4] = {};
  for (std::int64_t key0 = begin; key0 < end; key0 += tile) {
    __syncthreads();
    load_rows<DP>(shared.kv, k + key0 * dims, dims, end - key0, dims);
    __syncthreads();
    float s[4][4];
    dot_tile<DP>(shared.q, shared.kv, ty, tx, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float top = largest[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int64_t key = key0 + tx + 16 * j;
        float x = -INFINITY;
        if (key < end && sees(from + 4 * ty + i, position ? position[key] : key, a.shape.window)) {
          x = finish_logit(s[i][j], a.shape.scale, a.shape.softcap);
          if (log_count) x += log_count[key];
        }
        s[i][j] = x;
        top = fmaxf(top, x);
      }
      for (int lane = 8; lane > 0; lane /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lane));
      const float base = top == -INFINITY ? 0.0f : top;
      const float shrink = expf(largest[i] - base);
      largest[i] = top;
      float part = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float p = expf(s[i][j] - base);
        part += p;
        shared.p[4 * ty + i][tx + 16 * j] = p;
      }
      for (int lane = 8; lane > 0; lane /= 2) part += __shfl_xor_sync(0xffffffffu, part, lane);
      sum[i] = fmaf(sum[i], shrink, part);
#pragma unroll
      for (int c = 0; c < pieces; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][c][e] *= shrink;
    }
    __syncthreads();
    load_rows<DP>(shared.kv, v + key0 * dims, dims, end - key0, dims);
    __syncthreads();
    if (4 * tx < DP) {
#pragma unroll 2
      for (int key = 0; key < tile; ++key) {
        float p[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) p[i] = shared.p[4 * ty + i][key];
#pragma unroll
        for (int c = 0; c < pieces; ++c) {
          const float4 x = *reinterpret_cast<const float4*>(shared.kv + key * tile_stride<DP> + 64 * c + 4 * tx);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            o[i][c][0] = fmaf(p[i], x.x, o[i][c][0]);
            o[i][c][1] = fmaf(p[i], x.y, o[i][c][1]);
            o[i][c][2] = fmaf(p[i], x.z, o[i][c][2]);
            o[i][c][3] = fmaf(p[i], x.w, o[i][c][3]);
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::int64_t row = from + 4 * ty + i - a.first;
    if (from + 4 * ty + i >= to) continue;
    float base = largest[i], total = sum[i], factor = 1.0f;
    if (a.shape.sinks) {
      const float sink = a.shape.sinks[head], top = fmaxf(base, sink);
      factor = expf(base - top);
      total = fmaf(total, factor, expf(sink - top));
      base = top;
    }
    factor = total > 0.0f || total != total ? factor / total : 0.0f;  // nothing visible: zeros
    if (tx == 0) a.lse[row * a.shape.query_heads + head] = base == -INFINITY ? -INFINITY : base + logf(total);
#pragma unroll
    for (int c = 0; c < pieces; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int d = 64 * c + 4 * tx + e;
        if (4 * tx < DP && d < dims) a.out[row * row_stride + head * dims + d] = from_float<TQ>(o[i][c][e] * factor);
      }
  }
}

template <class TQ, class TKV>
void launch(const Args<TQ>& a, DeviceStream stream) {
  if (a.n == 0) return;
  const std::int64_t blocks = (a.first + a.n - 1) / tile - a.first / tile + 1;
  with_padded_dim(a.shape.head_dim, [&](auto padded) {
    constexpr int DP = decltype(padded)::value;
    constexpr int bytes = sizeof(GeneralShared<DP>);
    check_cuda(cudaFuncSetAttribute(general_kernel<DP, TQ, TKV>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "preparing attention");
    const dim3 grid(static_cast<unsigned>(a.shape.query_heads), static_cast<unsigned>(blocks));
    general_kernel<DP, TQ, TKV><<<grid, tile_threads, bytes, stream>>>(a);
    check_launch("attention in fp32");
  });
}

template <class T>
Args<T> plain_args(const AttentionPrefill& a) {
  return {a.shape, static_cast<const T*>(a.q), static_cast<T*>(a.out), a.lse, a.n, a.first, a.cache, nullptr};
}

}  // namespace

void attention_general(const AttentionPrefill& a, DeviceStream stream) {
  assert(a.shape.head_dim <= 256);
  if (a.shape.dtype == DType::bf16)
    launch<bf16, bf16>(plain_args<bf16>(a), stream);
  else
    launch<float, float>(plain_args<float>(a), stream);
}

void attention_ragged_cuda(const AttentionRagged& a, DeviceStream stream) {
  assert(a.shape.head_dim <= 256);
  const Args<float> args{a.shape, a.q, a.out, a.lse, a.n, a.first, {}, a.groups};
  if (a.shape.dtype == DType::bf16)
    launch<float, bf16>(args, stream);
  else
    launch<float, float>(args, stream);
}

}  // namespace kvgrind::kernels
