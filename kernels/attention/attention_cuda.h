// Attention with log-sum-exp on the device: the operation of kernels/attention/attention.h over caches that lie there.
// All pointers are device pointers unless said otherwise; everything is queued on `stream`; q and k are post-RoPE.
// Two precisions: f32 (fp32 arithmetic throughout, no TF32) and bf16 (operands bf16, products and sums fp32, the
// probabilities rounded to bf16 before they meet v). head_dim is at most 256.
// A row's result depends neither on the other rows of the call nor on where the call's rows begin, bitwise.
// Roofline: prefill 4·D flops a visible pair, at the tensor cores' bf16 rate (or the fp32 rate); decode reads every
// visible k and v once: 2·D·size bytes a slot and cache head, at memory bandwidth.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

// What all heads share. logit = cap(scale · q·k) + log_count, as on the CPU.
struct AttentionShape {
  DType dtype = DType::f32;                                     // of q, k, v and out: f32 or bf16
  std::int64_t query_heads = 0, cache_heads = 0, head_dim = 0;  // query head h reads cache head h / (Hq / Hc)
  float scale = 1.0f, softcap = 0.0f;
  std::int64_t window = 0;
  const float* sinks = nullptr;  // [Hq] or null
};

// A plain cache: slot = position.
struct PlainCache {
  const void* k = nullptr;  // [Hc, …, D], slots contiguous
  const void* v = nullptr;
  std::int64_t head_stride = 0;  // elements from one head to the next: capacity · D
};

// A ragged cache: every cache head has its own slots, in any order.
struct DeviceGroup {
  const void* k = nullptr;  // [n, D]
  const void* v = nullptr;
  const std::int64_t* position = nullptr;  // [n]; null: slot = position
  const float* log_count = nullptr;        // [n] or null
  std::int64_t n = 0;
};

// n queries at positions first, first+1, …; their own keys are in the cache already.
struct AttentionPrefill {
  AttentionShape shape;
  const void* q = nullptr;  // [n, Hq, D]
  std::int64_t n = 0, first = 0;
  PlainCache cache;
  void* out = nullptr;   // [n, Hq, D]
  float* lse = nullptr;  // [n, Hq]
};
void attention_prefill_cuda(const AttentionPrefill& params, DeviceStream stream);

// The same over ragged caches. q and out are f32 whatever the dtype of k and v (shape.dtype).
struct AttentionRagged {
  AttentionShape shape;
  const float* q = nullptr;  // [n, Hq, D]
  std::int64_t n = 0, first = 0;
  const DeviceGroup* groups = nullptr;  // [Hc]
  float* out = nullptr;                 // [n, Hq, D]
  float* lse = nullptr;                 // [n, Hq]
};
void attention_ragged_cuda(const AttentionRagged& params, DeviceStream stream);

// One query a sequence. Exactly one of `cache` (sequences = 1) and `groups` is used.
struct AttentionDecode {
  AttentionShape shape;
  std::int64_t sequences = 1;
  const void* q = nullptr;                 // [B, Hq, D]
  const std::int64_t* position = nullptr;  // [B] of the queries, read when the kernel runs: fit for graphs
  PlainCache cache;                        // slots 0 … position
  const DeviceGroup* groups = nullptr;     // [B, Hc]
  std::int64_t splits = 1;                 // parts of the slots that run beside each other; ≤ 64
  void* workspace = nullptr;               // attention_decode_workspace_bytes
  void* out = nullptr;                     // [B, Hq, D]
  float* lse = nullptr;                    // [B, Hq]
  // Optional second home of the LSE: row *trace_row of lse_trace, `trace_stride` floats a row.
  float* lse_trace = nullptr;
  const std::int64_t* trace_row = nullptr;
  std::int64_t trace_stride = 0;
};
std::int64_t attention_decode_splits(const AttentionShape& shape, std::int64_t sequences, std::int64_t max_slots,
                                     int multiprocessors);
std::int64_t attention_decode_workspace_bytes(const AttentionShape& shape, std::int64_t sequences, std::int64_t splits);
void attention_decode_cuda(const AttentionDecode& params, DeviceStream stream);

// Rows of softmax for the n ≤ 64 queries at first …, from their LSE: p [Hq, n, slots] f32, zero where masked. Groups as
// in AttentionRagged, all with the same n = slots; or, when groups is null, the plain cache.
struct AttentionProbabilities {
  AttentionShape shape;
  const void* q = nullptr;  // [n, Hq, D], shape.dtype
  std::int64_t n = 0, first = 0, slots = 0;
  PlainCache cache;
  const float* lse = nullptr;  // [n, Hq]
  float* p = nullptr;
};
void attention_probabilities_cuda(const AttentionProbabilities& params, DeviceStream stream);

// Column sums by a second pass over q and k with the LSE: sum[h, j] += Σ_i p[i, j] over the n queries of query head h.
// Sums are taken within absolute blocks of 64 queries and the blocks added in order, so that feeding the queries in
// chunks that are multiples of 64 gives the same bits. Half the flops of the forward pass, no v.
struct ColumnSums {
  AttentionShape shape;
  const void* q = nullptr;  // [n, Hq, D]
  std::int64_t n = 0, first = 0;
  PlainCache cache;
  const float* lse = nullptr;  // [n, Hq]
  float* sum = nullptr;        // [Hq, sum_stride]: entries 0 … first + n − 1 are updated
  std::int64_t sum_stride = 0;
};
void column_sums_cuda(const ColumnSums& params, DeviceStream stream);

// Maximum and sum of probabilities within cells of `cell` × `cell` (query, key) pairs, added to what is there: cell
// (r, c) of a head, c ≤ r, lies at r (r + 1) / 2 + c. p [heads, n, slots] of queries first …, as above. NaN stays.
struct PooledMap {
  const float* p = nullptr;
  std::int64_t heads = 0, n = 0, first = 0, slots = 0, cell = 8;
  float *max = nullptr, *sum = nullptr;  // [heads, stride]
  std::int64_t stride = 0;
};
void pooled_map_cuda(const PooledMap& params, DeviceStream stream);

}  // namespace kvgrind::kernels
