// What each instruction-set level offers to the dispatchers of the operations: plain functions on raw pointers.
#pragma once
#include <cstdint>

namespace kvgrind::kernels {

// Weights are packed in panels of this many outputs, [panel][K][panel_width], whatever the level.
constexpr std::int64_t panel_width = 32;

// Rows of x are packed as [K][rows of the block]; a block has at most max_rows rows of its level. One row is its own
// packing.
struct LinearBlock {
  const float* x = nullptr;
  std::int64_t rows = 0;
  float* y = nullptr;  // first row of the block
  std::int64_t y_stride = 0;
};

struct LinearTask {
  const void* panels = nullptr;
  const float* bias = nullptr;  // [panels · panel_width]
  std::int64_t inputs = 0;      // K
  std::int64_t outputs = 0;     // N; the last panel may be partly beyond it
  std::int64_t panel_begin = 0, panel_end = 0;
  const LinearBlock* blocks = nullptr;
  std::int64_t n_blocks = 0;
  float* scratch = nullptr;  // [linear_scratch]
};
constexpr std::int64_t linear_depth = 256;  // K is walked in pieces of this length when there are several blocks
constexpr std::int64_t linear_max_rows = 16;
constexpr std::int64_t linear_scratch = panel_width * (linear_depth + linear_max_rows);

constexpr std::int64_t attention_tile = 96;  // keys

// One block of at most 64 queries of one head. Scores are kept key-major, [key][row], rows padded to row_stride.
struct AttentionBlock {
  const float* q = nullptr;
  std::int64_t q_stride = 0, rows = 0, dims = 0;
  const float* k = nullptr;
  const float* v = nullptr;
  std::int64_t k_stride = 0, v_stride = 0, n_k = 0;
  // A tile's state is 0 no row sees a key, 1 mixed, 2 all rows see all keys. In mixed tiles row i sees the keys with
  // row_low[i] < key_at[j] ≤ row_high[i]; in others key_at is not set.
  const std::int32_t* row_low = nullptr;   // [64]
  const std::int32_t* row_high = nullptr;  // [64]
  const std::int32_t* key_at = nullptr;    // [n_k]
  const std::uint8_t* tile_state = nullptr;
  const float* log_count = nullptr;
  const float* sink = nullptr;
  float scale = 1.0f, softcap = 0.0f;
  bool hide_masked_values = false;  // rows = 1 only: values of masked keys are read as 0 (they may be NaN or infinite)
  float* scratch = nullptr;         // [attention_scratch(dims)]
  // [n_k, row_stride] or null: exp(logit − tile_largest[tile][row]) in the tiles whose state is not 0
  float* weights = nullptr;
  float* tile_largest = nullptr;  // [tiles, row_stride], with weights
  // Out: largest logit and Σ exp(logit − largest) of each row, and out [rows, dims] when wanted.
  float* largest = nullptr;
  float* sum = nullptr;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};
constexpr std::int64_t attention_scratch(std::int64_t dims) { return 64 * (2 * dims + attention_tile + 2); }

struct KernelTable {
  std::int64_t linear_rows;              // rows a block may have
  void (*linear[3])(const LinearTask&);  // by DType of the panels: f32, f16, bf16
  std::int64_t (*attention_row_stride)(std::int64_t rows);
  void (*attention)(const AttentionBlock&);
  // p[r][j] = weights[j][r] · exp(tile_largest[r] − largest[r]) · inverse_sum[r] for the keys of one tile and all
  // row_stride rows r
  void (*probabilities)(const float* weights, std::int64_t row_stride, std::int64_t keys, const float* tile_largest,
                        const float* largest, const float* inverse_sum, float* p, std::int64_t p_stride);
  void (*silu_mul)(const float* gate, const float* up, float* out, std::int64_t n);
  void (*exp_nonpositive)(const float* x, float* out, std::int64_t n);  // for tests
  void (*tanh)(const float* x, float* out, std::int64_t n);             // for tests
};

extern const KernelTable baseline_kernels;
extern const KernelTable avx2_kernels;
extern const KernelTable avx512_kernels;

}  // namespace kvgrind::kernels
