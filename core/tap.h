// The tap: what the model runtime shows while it runs. Declared here so that the runtime (sim) and the recorder
// (traces) never meet; replay plugs one into the other.
//
// Order of calls for one forward pass over tokens [first, first + n) of one sequence:
//   begin(pass);  for each layer: probabilities(…)* (concurrently over heads), then layer(…);  end(pass)
// Views are valid during the call only. All fp32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "core/dtype.h"
#include "core/view.h"

namespace kvgrind {

struct TapPass {
  std::int64_t sequence = 0;
  std::int64_t first = 0;             // position of the first fed token
  std::span<const std::int32_t> ids;  // the fed tokens
  bool decode = false;                // fed one at a time by generation (or teacher-forced stepping)
};

// Rows as the run itself holds them: head h of row i begins at element i · row_stride + h · head_stride.
struct TapRows {
  DType dtype = DType::f32;
  const void* data = nullptr;  // null: not given
  std::int64_t row_stride = 0, head_stride = 0;
};

// A source may leave out what it does not have (empty views), and may give q, k and v as TapRows instead of views. Of
// `input`, `attn_in` and the final residual it may give the rows' L2 norms alone, as [n, 1].
struct TapLayer {
  std::int64_t layer = 0;
  View<const float, 3> q;                // [n, Hq, D] post-RoPE
  View<const float, 3> q_pre;            // [n, Hq, D] pre-RoPE (after q-norm)
  View<const float, 3> k;                // [n, Hk, D] post-RoPE, as the cache holds it
  View<const float, 3> v;                // [n, Hk, D]
  View<const float, 2> lse;              // [n, Hq] natural log of Σ exp(logit), sinks included
  View<const float, 2> input;            // [n, hidden] the layer's input residual, before its norm
  View<const float, 2> attn_in;          // [n, hidden] the attention's input, after that norm
  View<const float, 2> attn_out;         // [n, hidden] the attention's output after W_O, before the residual is added
  TapRows rows_q{}, rows_k{}, rows_v{};  // used instead of q, k, v where given; q may be undefined in rows not recorded
};

// One block of at most 64 queries of one query head; blocks start at absolute multiples of 64.
struct TapProbabilities {
  std::int64_t layer = 0, head = 0;  // query head
  std::int64_t first = 0;            // position of the first query row
  View<const float, 2> p;            // [rows, keys] softmax, causal zeros included; key j has position key_position[j]
  std::span<const std::int64_t> key_position;
};

struct TapEnd {
  View<const float, 2> final_residual;  // [n, hidden] before the final norm; empty when the last layer's need is none
  View<const float, 2> logits;          // [rows, vocab] of the rows asked for, else empty
  std::span<const std::int64_t> logit_rows;  // row indices within the pass that `logits` holds
};

// What a tap reads of a layer, field by field: rows of positions from the one given on; `none` = no row. k and v are
// always whole. A runtime may show more than is asked; what nobody asks for it need not compute: those rows are
// undefined, and a view none of whose rows is asked for may be empty.
struct TapNeeds {
  static constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  std::int64_t q = 0, q_pre = 0, lse = 0, input = 0, attn_in = 0, attn_out = 0;
  std::int64_t output = 0;  // the residual behind the layer: of the last one, TapEnd's final residual

  // What either asks for.
  static TapNeeds both(const TapNeeds& a, const TapNeeds& b) {
    return {.q = std::min(a.q, b.q),
            .q_pre = std::min(a.q_pre, b.q_pre),
            .lse = std::min(a.lse, b.lse),
            .input = std::min(a.input, b.input),
            .attn_in = std::min(a.attn_in, b.attn_in),
            .attn_out = std::min(a.attn_out, b.attn_out),
            .output = std::min(a.output, b.output)};
  }
};

class Tap {
 public:
  virtual ~Tap() = default;
  // A hint that saves work; asked once a layer and pass, after begin().
  virtual TapNeeds needs(std::int64_t layer) const { return (void)layer, TapNeeds{}; }
  // Whether probabilities() is wanted for this layer (costs time).
  virtual bool wants_probabilities(std::int64_t layer) const {
    (void)layer;
    return false;
  }
  virtual bool wants_all_logits() const { return false; }
  virtual void begin(const TapPass&) {}
  virtual void probabilities(const TapProbabilities&) {}  // called concurrently for different heads
  virtual void layer(const TapLayer&) {}
  virtual void end(const TapEnd&) {}
};

}  // namespace kvgrind
