// Decode attention in fp32 arithmetic: one block a split, cache head and up to 8 of its query heads; 128 keys at a
// time, one a thread for the logits, one dim a thread for the values.
#include <type_traits>

#include "kernels/attention/decode_parts.cuh"
#include "kernels/attention/general.cuh"
#include "kernels/attention/score_tile.cuh"
#include "kernels/device/check_cuda.h"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 128, rows = 8, max_dims = 256;

template <class T>
__global__ void __launch_bounds__(threads) decode_general_kernel(const AttentionDecode a) {
  __shared__ float q[rows][max_dims], p[rows][threads], largest[rows], sum[rows], shrink[rows];
  const int dims = static_cast<int>(a.shape.head_dim);
  const int group = static_cast<int>(a.shape.query_heads / a.shape.cache_heads);
  const int parts = (group + rows - 1) / rows;
  const int split = blockIdx.x, cache_head = blockIdx.y / parts, sequence = blockIdx.z;
  const int head0 = cache_head * group + static_cast<int>(blockIdx.y) % parts * rows;
  const int heads = min(rows, cache_head * group + group - head0);
  const DecodeSlots<T> slots(a, sequence, cache_head);
  const DecodeRange range = decode_range(slots, a, split);
  const DecodePartials partials(a);
  if (range.begin >= range.end) {
    if (threadIdx.x < heads) partials.set_empty(sequence, head0 + threadIdx.x, split);
    return;
  }
  for (int i = threadIdx.x; i < rows * dims; i += threads) {
    const int row = i / dims, d = i % dims;
    q[row][d] = row < heads
                    ? to_float(static_cast<const T*>(a.q)[(sequence * a.shape.query_heads + head0 + row) * dims + d])
                    : 0.0f;
  }
  if (threadIdx.x < rows) largest[threadIdx.x] = -INFINITY, sum[threadIdx.x] = 0.0f;
  float o[rows][max_dims / threads] = {};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (std::int64_t key0 = range.begin; key0 < range.end; key0 += threads) {
    __syncthreads();
    const std::int64_t key = key0 + threadIdx.x;
    const bool seen = key < range.end && slots.sees(key, a.shape.window);
    float s[rows] = {};
    if (seen) {
      const T* row = slots.k + key * dims;
      for (int d = 0; d < dims; d += 8) {
        float x[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) x[e] = d + e < dims ? to_float(row[d + e]) : 0.0f;
#pragma unroll
        for (int r = 0; r < rows; ++r)
#pragma unroll
          for (int e = 0; e < 8; ++e) s[r] = fmaf(d + e < dims ? q[r][d + e] : 0.0f, x[e], s[r]);
      }
    }
    const float count = seen && slots.log_count ? slots.log_count[key] : 0.0f;
#pragma unroll
    for (int r = 0; r < rows; ++r)
      p[r][threadIdx.x] = seen ? (finish_logit(s[r], a.shape.scale, a.shape.softcap) + count) * log2e : -INFINITY;
    __syncthreads();
    for (int r = warp; r < rows; r += threads / 32) {
      float top = largest[r], part = 0.0f;
      for (int j = lane; j < threads; j += 32) top = fmaxf(top, p[r][j]);
      top = warp_max(top);
      const float base = top == -INFINITY ? 0.0f : top;
      for (int j = lane; j < threads; j += 32) {
        p[r][j] = exp2f(p[r][j] - base);
        part += p[r][j];
      }
      part = warp_sum(part);
      __syncwarp();
      if (lane == 0) {
        shrink[r] = exp2f(largest[r] - base);
        sum[r] = sum[r] * shrink[r] + part;
        largest[r] = top;
      }
    }
    __syncthreads();
    const int keys = static_cast<int>(min(static_cast<std::int64_t>(threads), range.end - key0));
#pragma unroll
    for (int c = 0; c < max_dims / threads; ++c) {
      const int d = threadIdx.x + c * threads;
      if (d >= dims) continue;
#pragma unroll
      for (int r = 0; r < rows; ++r) o[r][c] *= shrink[r];
      const T* column = slots.v + key0 * dims + d;
      for (int j = 0; j < keys; ++j) {
        const float x = to_float(column[static_cast<std::int64_t>(j) * dims]);
#pragma unroll
        for (int r = 0; r < rows; ++r) o[r][c] = fmaf(p[r][j], x, o[r][c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    if (r >= heads) continue;
    float* to = partials.o(sequence, head0 + r, split);
#pragma unroll
    for (int c = 0; c < max_dims / threads; ++c)
      if (threadIdx.x + c * threads < static_cast<unsigned>(dims)) to[threadIdx.x + c * threads] = o[r][c];
    if (threadIdx.x == 0) partials.set(sequence, head0 + r, split, largest[r], sum[r]);
  }
}

}  // namespace

void attention_decode_general(const AttentionDecode& a, DeviceStream stream) {
  const std::int64_t parts = (a.shape.query_heads / a.shape.cache_heads + rows - 1) / rows;
  const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.shape.cache_heads * parts),
                  static_cast<unsigned>(a.sequences));
  if (a.shape.dtype == DType::bf16)
    decode_general_kernel<bf16><<<grid, threads, 0, stream>>>(a);
  else
    decode_general_kernel<float><<<grid, threads, 0, stream>>>(a);
  check_launch("decode attention in fp32");
}

}  // namespace kvgrind::kernels
