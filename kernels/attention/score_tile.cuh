// 64 × 64 tiles of q·k in fp32 on 256 threads: thread (ty, tx) holds rows 4·ty … 4·ty+3 and columns tx + 16·j.
#pragma once
#include "kernels/attention/attention_cuda.h"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {

inline constexpr int tile = 64, tile_threads = 256;

// Rows of shared tiles are DP + 4 floats apart: the 16 columns' float4 reads then fall on different banks.
template <int DP>
inline constexpr int tile_stride = DP + 4;

// Rows [0, 64) of `from` (row i at from + i · row_stride) as fp32; zeros from rows_valid and from dim D on.
template <int DP, class T>
__device__ void load_rows(float* to, const T* from, std::int64_t row_stride, std::int64_t rows_valid, int dims) {
  for (int i = threadIdx.x; i < tile * DP; i += tile_threads) {
    const int row = i / DP, d = i % DP;
    to[row * tile_stride<DP> + d] = row < rows_valid && d < dims ? to_float(from[row * row_stride + d]) : 0.0f;
  }
}

template <int DP>
__device__ void dot_tile(const float* q, const float* k, int ty, int tx, float (&s)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) s[i][j] = 0.0f;
#pragma unroll 4
  for (int d = 0; d < DP; d += 4) {
    float4 qd[4], kd[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) qd[i] = *reinterpret_cast<const float4*>(q + (4 * ty + i) * tile_stride<DP> + d);
#pragma unroll
    for (int j = 0; j < 4; ++j) kd[j] = *reinterpret_cast<const float4*>(k + (tx + 16 * j) * tile_stride<DP> + d);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[i][j] = fmaf(qd[i].x, kd[j].x, s[i][j]);
        s[i][j] = fmaf(qd[i].y, kd[j].y, s[i][j]);
        s[i][j] = fmaf(qd[i].z, kd[j].z, s[i][j]);
        s[i][j] = fmaf(qd[i].w, kd[j].w, s[i][j]);
      }
  }
}

__device__ inline float finish_logit(float dot, float scale, float softcap) {
  const float x = __fmul_rn(dot, scale);  // never contracted into a later difference: rows must round alike
  return softcap != 0.0f ? softcap * tanhf(x / softcap) : x;
}

__device__ inline bool sees(std::int64_t query, std::int64_t key, std::int64_t window) {
  return key <= query && (window == 0 || query - key < window);
}

// Calls launch(std::integral_constant<int, DP>) with the smallest padded head_dim that holds `dims`.
template <class Launch>
void with_padded_dim(std::int64_t dims, Launch&& launch) {
  if (dims <= 32)
    launch(std::integral_constant<int, 32>());
  else if (dims <= 64)
    launch(std::integral_constant<int, 64>());
  else if (dims <= 128)
    launch(std::integral_constant<int, 128>());
  else
    launch(std::integral_constant<int, 256>());
}

}  // namespace kvgrind::kernels
