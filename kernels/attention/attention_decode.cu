// Decode attention in bf16 on the tensor cores, memory bound. The query heads of a group are rows of one fragment, so k
// and v are read once a group, straight into registers: the sum over dims may run in any order, so a lane takes 8
// neighbouring dims (16 bytes) of a key; output columns may stand in any order, so a lane takes 8 neighbouring dims of
// a value and pairs keys by byte permutes. Four warps share a split; splits merge through (max, sum, o).
#include <algorithm>
#include <cassert>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/decode_parts.cuh"
#include "kernels/attention/general.cuh"
#include "kernels/device/check_cuda.h"
#include "kernels/device/mma.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 128, warps = 4;

template <int D>
__global__ void __launch_bounds__(threads) decode_kernel(const AttentionDecode a) {
  constexpr int blocks32 = D / 32, blocks64 = D / 64;
  const int split = blockIdx.x, cache_head = blockIdx.y, sequence = blockIdx.z;
  const int group = static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const DecodeSlots<bf16> slots(a, sequence, cache_head);
  const DecodeRange range = decode_range(slots, a, split);
  const int head0 = cache_head * group;
  const DecodePartials partials(a);
  if (range.begin >= range.end) {
    if (threadIdx.x < group) partials.set_empty(sequence, head0 + threadIdx.x, split);
    return;
  }

  std::uint32_t qa[blocks32][2][4];
#pragma unroll
  for (int b = 0; b < blocks32; ++b)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = g + 8 * r;
      uint4 x = {};
      if (row < group)
        x = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(a.q) +
                                            (sequence * a.shape.query_heads + head0 + row) * D + b * 32 + t * 8);
      qa[b][0][r] = x.x, qa[b][0][2 + r] = x.y;
      qa[b][1][r] = x.z, qa[b][1][2 + r] = x.w;
    }

  const bool capped = a.shape.softcap != 0.0f;
  float o[blocks64][8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (std::int64_t key0 = range.begin + warp * 16; key0 < range.end; key0 += warps * 16) {
    const std::int64_t final_key = range.end - 1;
    uint4 kx[2][blocks32], vx[4][blocks64];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const bf16* row = slots.k + min(key0 + j * 8 + g, final_key) * D + t * 8;
#pragma unroll
      for (int b = 0; b < blocks32; ++b) kx[j][b] = __ldcs(reinterpret_cast<const uint4*>(row + b * 32));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bf16* row = slots.v + min(key0 + 2 * t + i % 2 + i / 2 * 8, final_key) * D + g * 8;
#pragma unroll
      for (int c = 0; c < blocks64; ++c) vx[i][c] = __ldcs(reinterpret_cast<const uint4*>(row + c * 64));
    }

    float s[2][4] = {};
#pragma unroll
    for (int b = 0; b < blocks32; ++b)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        mma_bf16(s[j], qa[b][0], kx[j][b].x, kx[j][b].y);
        mma_bf16(s[j], qa[b][1], kx[j][b].z, kx[j][b].w);
      }
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::int64_t key = key0 + j * 8 + 2 * t + e;
        const bool seen = key < range.end && slots.sees(key, a.shape.window);
        const float count = slots.log_count && seen ? slots.log_count[key] : 0.0f;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float x = s[j][2 * r + e] * a.shape.scale;
          if (capped) x = a.shape.softcap * tanhf(x / a.shape.softcap);
          s[j][2 * r + e] = seen ? (x + count) * log2e : -INFINITY;
        }
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      top = fmaxf(top, largest[r]);
      const float base = top == -INFINITY ? 0.0f : top;
      const float shrink = exp2_fast(largest[r] - base);
      largest[r] = top;
      float part = 0.0f;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          s[j][2 * r + e] = exp2_fast(s[j][2 * r + e] - base);
          part += s[j][2 * r + e];
        }
      sum[r] = sum[r] * shrink + part;
#pragma unroll
      for (int c = 0; c < blocks64; ++c)
#pragma unroll
        for (int i = 0; i < 8; ++i) o[c][i][2 * r] *= shrink, o[c][i][2 * r + 1] *= shrink;
    }
    const std::uint32_t pa[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]), pack_bf16(s[1][0], s[1][1]),
                                 pack_bf16(s[1][2], s[1][3])};
#pragma unroll
    for (int c = 0; c < blocks64; ++c) {
      const std::uint32_t row[4][4] = {{vx[0][c].x, vx[0][c].y, vx[0][c].z, vx[0][c].w},
                                       {vx[1][c].x, vx[1][c].y, vx[1][c].z, vx[1][c].w},
                                       {vx[2][c].x, vx[2][c].y, vx[2][c].z, vx[2][c].w},
                                       {vx[3][c].x, vx[3][c].y, vx[3][c].z, vx[3][c].w}};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const std::uint32_t pick = i % 2 ? 0x7632 : 0x5410;
        mma_bf16(o[c][i], pa, __byte_perm(row[0][i / 2], row[1][i / 2], pick),
                 __byte_perm(row[2][i / 2], row[3][i / 2], pick));
      }
    }
  }

  // The four warps' parts become one.
  __shared__ float shared_o[warps][16][D + 4], shared_max[warps][16], shared_sum[warps][16];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    if (t == 0) shared_max[warp][g + 8 * r] = largest[r], shared_sum[warp][g + 8 * r] = sum[r];
    if (g + 8 * r < group)
#pragma unroll
      for (int c = 0; c < blocks64; ++c)
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          shared_o[warp][g + 8 * r][c * 64 + 16 * t + i] = o[c][i][2 * r];
          shared_o[warp][g + 8 * r][c * 64 + 16 * t + 8 + i] = o[c][i][2 * r + 1];
        }
  }
  __syncthreads();
  for (int row = 0; row < group; ++row) {
    float top = -INFINITY, total = 0.0f, factor[warps];
    for (int w = 0; w < warps; ++w) top = fmaxf(top, shared_max[w][row]);
    for (int w = 0; w < warps; ++w) {
      factor[w] = top == -INFINITY ? 0.0f : exp2_fast(shared_max[w][row] - top);
      total += shared_sum[w][row] * factor[w];
    }
    for (int d = threadIdx.x; d < D; d += threads) {
      float x = 0.0f;
      for (int w = 0; w < warps; ++w) x += shared_o[w][row][d] * factor[w];
      partials.o(sequence, head0 + row, split)[d] = x;
    }
    if (threadIdx.x == 0) partials.set(sequence, head0 + row, split, top, total);
  }
}

constexpr int max_splits = 64;

template <class T>
__global__ void merge_kernel(const AttentionDecode a) {
  __shared__ float top_of[max_splits], weight[max_splits];
  const int head = blockIdx.x, sequence = blockIdx.y, dims = static_cast<int>(a.shape.head_dim);
  const int splits = static_cast<int>(a.splits);
  const DecodePartials partials(a);
  const float* pairs = partials.pair(sequence, head, 0);
  const float sink = a.shape.sinks ? a.shape.sinks[head] * log2e : -INFINITY;
  float sum = 0.0f;
  if (threadIdx.x < splits) top_of[threadIdx.x] = pairs[2 * threadIdx.x], sum = pairs[2 * threadIdx.x + 1];
  __syncthreads();
  float top = sink;
  for (int split = 0; split < splits; ++split) top = fmaxf(top, top_of[split]);
  const float base = top == -INFINITY ? 0.0f : top;
  const float factor = threadIdx.x < splits ? exp2f(top_of[threadIdx.x] - base) : 0.0f;
  __syncthreads();  // everyone has read top_of
  if (threadIdx.x < splits) top_of[threadIdx.x] = sum * factor, weight[threadIdx.x] = sum > 0.0f ? factor : 0.0f;
  __syncthreads();
  float total = a.shape.sinks ? exp2f(sink - base) : 0.0f;
  for (int split = 0; split < splits; ++split) total += top_of[split];
  const std::int64_t row = sequence * a.shape.query_heads + head;
  for (int d = threadIdx.x; d < dims; d += blockDim.x) {
    const float* o = partials.o(sequence, head, 0) + d;
    float x = 0.0f;
#pragma unroll 8
    for (int split = 0; split < splits; ++split) {
      const float part = o[split * dims];  // unwritten where the split was empty
      x += weight[split] > 0.0f ? part * weight[split] : 0.0f;
    }
    static_cast<T*>(a.out)[row * dims + d] = from_float<T>(total > 0.0f ? x / total : 0.0f);
  }
  if (threadIdx.x != 0) return;
  const float lse = top == -INFINITY ? -INFINITY : base * ln2 + logf(total);
  a.lse[row] = lse;
  if (a.lse_trace) a.lse_trace[(a.trace_row[0] + sequence) * a.trace_stride + head] = lse;
}

template <int D>
void launch(const AttentionDecode& a, DeviceStream stream) {
  const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.shape.cache_heads),
                  static_cast<unsigned>(a.sequences));
  decode_kernel<D><<<grid, threads, 0, stream>>>(a);
  check_launch("decode attention");
}

}  // namespace

std::int64_t attention_decode_splits(const AttentionShape& shape, std::int64_t sequences, std::int64_t max_slots,
                                     int multiprocessors) {
  const std::int64_t wanted =
      (4 * multiprocessors + shape.cache_heads * sequences - 1) / (shape.cache_heads * sequences);
  const std::int64_t useful = (max_slots + 127) / 128;
  return std::clamp<std::int64_t>(std::min(wanted, useful), 1, max_splits);
}

std::int64_t attention_decode_workspace_bytes(const AttentionShape& shape, std::int64_t sequences,
                                              std::int64_t splits) {
  return sequences * shape.query_heads * splits * (shape.head_dim + 2) * static_cast<std::int64_t>(sizeof(float));
}

void attention_decode_cuda(const AttentionDecode& a, DeviceStream stream) {
  assert(a.splits >= 1 && a.splits <= max_splits && a.shape.head_dim <= 256);
  const bool tensor = a.shape.dtype == DType::bf16 && a.shape.query_heads / a.shape.cache_heads <= 16;
  if (tensor && a.shape.head_dim == 64)
    launch<64>(a, stream);
  else if (tensor && a.shape.head_dim == 128)
    launch<128>(a, stream);
  else
    attention_decode_general(a, stream);
  const dim3 grid(static_cast<unsigned>(a.shape.query_heads), static_cast<unsigned>(a.sequences));
  const unsigned merge_threads = a.shape.head_dim <= 64 ? 64 : 128;
  if (a.shape.dtype == DType::bf16)
    merge_kernel<bf16><<<grid, merge_threads, 0, stream>>>(a);
  else
    merge_kernel<float><<<grid, merge_threads, 0, stream>>>(a);
  check_launch("merging the parts of decode attention");
}

}  // namespace kvgrind::kernels
