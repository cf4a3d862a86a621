// Causal attention of query rows over one cache group, with log-sum-exp. The rows are one query head's, or those of
// several heads that share the group (give each its own position: equal positions are fine, and so is any order).
//   in   q [n_q, D] post-RoPE at positions q_position [n_q]
//        k [n_k, D] post-RoPE, v [n_k, D] at positions k_position [n_k], in any order, all f32
//        log_count [n_k] or null: added to the logits (count bias of merged slots)
//   out  out [n_q, D] = Σ p v; lse [n_q] natural log of Σ exp(logit) (sink logit included when there is one);
//        p (through `probabilities`, optional): rows of softmax, zero where masked
//   logit = cap(scale · q·k) + log_count;  cap(x) = softcap · tanh(x / softcap), none when 0
//   key j is visible to query i when k_position[j] ≤ q_position[i], and q_position[i] − k_position[j] < window if
//   window > 0; a query that sees nothing (and no sink): out = 0, lse = −inf
// A row's result depends on that row and the keys alone, bitwise: not on the other rows of the call, and not on keys
// behind the last one it sees. So chunked prefill = whole prefill, and decode = prefill over the same keys, within one
// instruction-set level (kernels/isa/isa.h); across levels within rounding.
// Tiles of 96 keys that no row of a block sees are skipped, whatever the order of the keys.
// NaN and infinity: as exact arithmetic would have it, but a visible infinite value whose weight is below e^-87 of the
// row's largest gives NaN. exp is within 3e-7, tanh within 1e-6 (relative).
// Roofline: 4·D flops and one exp per visible pair at the fp32 FMA rate for n_q ≥ 8; below that 8·D bytes a key.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>

#include "core/view.h"

namespace kvgrind::kernels {

constexpr std::int64_t attention_block = 64;  // queries

struct AttentionParams {
  View<const float, 2> q;                    // [n_q, D]
  std::span<const std::int64_t> q_position;  // [n_q]
  View<const float, 2> k, v;                 // [n_k, D]
  std::span<const std::int64_t> k_position;  // [n_k]
  const float* log_count = nullptr;          // [n_k] or null
  float scale = 1.0f;
  float softcap = 0.0f;
  std::int64_t window = 0;
  const float* sink = nullptr;  // one logit for all rows, joins the denominator only
  View<float, 2> out;           // [n_q, D]; data() may be null: not wanted (v is then not read)
  float* lse = nullptr;         // [n_q]; null: not wanted
  // Called once per block, in order, with the block's first row index and p [rows, n_k]; empty: not wanted. The view
  // is good during the call.
  std::function<void(std::int64_t, View<const float, 2>)> probabilities;
};

void attention(const AttentionParams& params);      // fast CPU, single thread: callers parallelise over heads
void attention_ref(const AttentionParams& params);  // plain loops, double accumulation: the oracle

// Calls f(first row, rows) block by block: blocks of positions that ascend by 1 start at absolute multiples of 64, all
// others take 64 rows as they come.
template <class F>
void for_attention_blocks(std::span<const std::int64_t> q_position, F&& f) {
  const auto n_q = static_cast<std::int64_t>(q_position.size());
  bool ascending = true;
  for (std::size_t i = 1; i < q_position.size(); ++i) ascending &= q_position[i] == q_position[i - 1] + 1;
  for (std::int64_t begin = 0; begin < n_q;) {
    const std::int64_t offset = ascending ? q_position[static_cast<std::size_t>(begin)] % attention_block : 0;
    const std::int64_t rows = std::min(n_q - begin, attention_block - offset);
    f(begin, rows);
    begin += rows;
  }
}

}  // namespace kvgrind::kernels
