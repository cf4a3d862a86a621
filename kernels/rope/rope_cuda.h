// From the joint q, k, v product to what attention reads, in one kernel: bias, the per-head RMS norm of q and k where
// the model has one, RoPE (half-split pairing, as kernels/rope/rope.h), q to its rows (and, when asked, straight into a
// trace ring), k and v to the cache. Device pointers; everything fp32 inside, rounded once on the way out.
// Roofline: reads and writes each element once: memory bandwidth.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

// table [n, half] of (cos, sin) · factor at positions first, first+1, …; angles position · inv_freq in fp32.
// first_device (optional) holds `first` and is read when the kernel runs.
struct RopeTable {
  const float* inv_freq = nullptr;  // [half]
  std::int64_t half = 0, n = 0, first = 0;
  const std::int64_t* first_device = nullptr;
  float factor = 1.0f;
  float* table = nullptr;  // [n, half, 2]
};
void rope_table_cuda(const RopeTable& params, DeviceStream stream);

struct RopeWrite {
  DType dtype = DType::f32;       // of qkv and all outputs: f32 or bf16
  const void* qkv = nullptr;      // [n, (Hq + 2·Hk) · D]
  const float* bias = nullptr;    // [(Hq + 2·Hk) · D] or null
  const float* q_norm = nullptr;  // [D] or null
  const float* k_norm = nullptr;  // [D] or null
  float eps = 0.0f;
  std::int64_t n = 0, query_heads = 0, kv_heads = 0, head_dim = 0;  // D ≤ 256
  const float* table = nullptr;                                     // [n, half, 2]
  std::int64_t half = 0;
  void* q = nullptr;      // [n, Hq, D] post-RoPE
  void* q_pre = nullptr;  // [n, Hq, D] pre-RoPE, or null
  // k and v of row i and head h go to element (first + i) · row_stride + h · head_stride.
  void* k = nullptr;
  void* v = nullptr;
  std::int64_t row_stride = 0, head_stride = 0, first = 0;
  const std::int64_t* first_device = nullptr;  // when not null, read instead of `first`
  // Row i of q goes also to row trace_row[i] of q_trace, `trace_stride` elements a row; a negative row: not wanted.
  void* q_trace = nullptr;
  const std::int64_t* trace_row = nullptr;
  std::int64_t trace_stride = 0;
};
void rope_write_cuda(const RopeWrite& params, DeviceStream stream);

}  // namespace kvgrind::kernels
