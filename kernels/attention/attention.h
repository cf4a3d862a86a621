// Causal attention of one query head over one cache group, with log-sum-exp; or of several query heads at one position,
// which share the group (a decode step).
//   in   q [n_q, D] post-RoPE at positions q_position [n_q], ascending by 1 or all equal
//        k [n_k, D] post-RoPE, v [n_k, D] at positions k_position [n_k] (ascending or not), all f32
//        log_count [n_k] or null: added to the logits (count bias of merged slots)
//   out  out [n_q, D] = Σ p v; lse [n_q] natural log of Σ exp(logit) (sink logit included when there is one);
//        p (through `probabilities`, optional): rows of softmax, zero where masked
//   logit = cap(scale · q·k) + log_count;  cap(x) = softcap · tanh(x / softcap), none when 0
//   key j is visible to query i when k_position[j] ≤ q_position[i] and (window == 0 or q_position[i] − k_position[j] <
//   window) a query that sees nothing (and no sink): out = 0, lse = −inf
// Queries are processed in blocks that start at absolute positions that are multiples of 64, and a row's result does
// not depend on how many other rows are in the call, bitwise.
// Roofline: 4·D flops and one exp per visible (query, key) pair.
#pragma once
#include <cstdint>
#include <functional>
#include <span>

#include "core/view.h"

namespace kvgrind::kernels {

constexpr std::int64_t attention_block = 64;  // queries

struct AttentionParams {
  View<const float, 2> q;                    // [n_q, D]
  std::span<const std::int64_t> q_position;  // [n_q], ascending by 1, or all equal
  View<const float, 2> k, v;                 // [n_k, D]
  std::span<const std::int64_t> k_position;  // [n_k]
  const float* log_count = nullptr;          // [n_k] or null
  float scale = 1.0f;
  float softcap = 0.0f;
  std::int64_t window = 0;
  const float* sink = nullptr;  // one logit, joins the denominator only
  View<float, 2> out;           // [n_q, D]; data() may be null: not wanted
  float* lse = nullptr;         // [n_q]; null: not wanted
  // Called once per block, in order, with the block's first row index and p [rows, n_k]; empty: not wanted.
  std::function<void(std::int64_t, View<const float, 2>)> probabilities;
};

void attention(const AttentionParams& params);      // fast CPU, single thread: callers parallelise over heads
void attention_ref(const AttentionParams& params);  // plain loops, double accumulation: the oracle

}  // namespace kvgrind::kernels
