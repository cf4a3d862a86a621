// Register-blocked product of a packed row block and packed weight panels; see lanes.h for why nothing here is shared.
// Every element of y is one chain of fused multiply-adds over k, started at the bias: the same chain for any number of
// rows and any split of the work, so a row's bits depend on that row alone.
#pragma once
#include "kernels/isa/kernel_table.h"
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

struct StoredF32 {
  using Type = float;
  template <class L>
  static typename L::F load(const float* from) {
    return L::load(from);
  }
};
struct StoredF16 {
  using Type = std::uint16_t;
  template <class L>
  static typename L::F load(const std::uint16_t* from) {
    return L::load_f16(from);
  }
};
struct StoredBf16 {
  using Type = std::uint16_t;
  template <class L>
  static typename L::F load(const std::uint16_t* from) {
    return L::load_bf16(from);
  }
};

// y[r][p][c] (+)= Σ_k x[k][r] · w_p[k][c] for R rows, P panels and V vectors of columns. Weights are widened on the
// way: worth it when few rows share them.
template <class L, class Stored, int R, int P, int V>
inline void linear_tile(const float* x, const typename Stored::Type* w, std::int64_t panel_stride, std::int64_t depth,
                        const float* bias, float* y, std::int64_t y_stride) {
  typename L::F sum[R][P * V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < P * V; ++c) {
      const std::int64_t column = (c / V) * panel_width + (c % V) * L::width;
      sum[r][c] = bias ? L::load(bias + column) : L::load(y + r * y_stride + column);
    }
  for (std::int64_t k = 0; k < depth; ++k) {
    typename L::F weight[P * V];
#pragma GCC unroll 16
    for (int c = 0; c < P * V; ++c)
      weight[c] = Stored::template load<L>(w + (c / V) * panel_stride + k * panel_width + (c % V) * L::width);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto value = L::set(x[k * R + r]);
#pragma GCC unroll 16
      for (int c = 0; c < P * V; ++c) sum[r][c] = L::fma(value, weight[c], sum[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < P * V; ++c) L::store(y + r * y_stride + (c / V) * panel_width + (c % V) * L::width, sum[r][c]);
}

// How many panels one row, and how many columns more rows, take at once: enough independent sums to hide the latency
// of an FMA, few enough to stay in registers.
#if defined(__AVX512F__)
constexpr int linear_rows = 14, one_row_panels = 4, two_row_panels = 2;
constexpr int tile_vectors(int) { return 2; }
#elif defined(__AVX2__)
constexpr int linear_rows = 6, one_row_panels = 2, two_row_panels = 1;
constexpr int tile_vectors(int rows) { return rows <= 2 ? 4 : 2; }
#else
constexpr int linear_rows = 6, one_row_panels = 1, two_row_panels = 1;
constexpr int tile_vectors(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
#endif
constexpr std::int64_t blocks_worth_widening = 4;
constexpr int panel_vectors = static_cast<int>(panel_width) / Widest::width;

template <class Stored>
using TileFunction = void (*)(const float*, const typename Stored::Type*, std::int64_t, std::int64_t, const float*,
                              float*, std::int64_t);

template <class Stored, int R>
inline void panel_tile(const float* x, const typename Stored::Type* w, std::int64_t panel_stride, std::int64_t depth,
                       const float* bias, float* y, std::int64_t y_stride) {
  constexpr int vectors = tile_vectors(R);
  for (int v = 0; v < panel_vectors; v += vectors)
    linear_tile<Widest, Stored, R, 1, vectors>(x, w + v * Widest::width, panel_stride, depth,
                                               bias ? bias + v * Widest::width : nullptr, y + v * Widest::width,
                                               y_stride);
}

template <class Stored>
inline TileFunction<Stored> tile_function(std::int64_t rows) {
  static constexpr TileFunction<Stored> table[] = {
      panel_tile<Stored, 1>,  panel_tile<Stored, 2>,  panel_tile<Stored, 3>,  panel_tile<Stored, 4>,
      panel_tile<Stored, 5>,  panel_tile<Stored, 6>,
#ifdef __AVX512F__
      panel_tile<Stored, 7>,  panel_tile<Stored, 8>,  panel_tile<Stored, 9>,  panel_tile<Stored, 10>,
      panel_tile<Stored, 11>, panel_tile<Stored, 12>, panel_tile<Stored, 13>, panel_tile<Stored, 14>,
#endif
  };
  return table[rows - 1];
}

// A panel that reaches beyond N goes through a small tile of its own.
template <class Stored>
inline void one_tile(const LinearTask& task, const LinearBlock& block, const typename Stored::Type* w,
                     std::int64_t panel, std::int64_t begin, std::int64_t depth) {
  const TileFunction<Stored> tile = tile_function<Stored>(block.rows);
  const float* bias = begin == 0 ? task.bias + panel * panel_width : nullptr;
  const float* x = block.x + begin * block.rows;
  float* y = block.y + panel * panel_width;
  const std::int64_t columns = task.outputs - panel * panel_width;
  if (columns >= panel_width) {
    tile(x, w, 0, depth, bias, y, block.y_stride);
    return;
  }
  float* edge = task.scratch + panel_width * linear_depth;
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < panel_width; ++c)
      edge[r * panel_width + c] = bias || c >= columns ? 0.0f : y[r * block.y_stride + c];
  tile(x, w, 0, depth, bias, edge, panel_width);
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) y[r * block.y_stride + c] = edge[r * panel_width + c];
}

template <class Stored>
inline void linear_task(const LinearTask& task) {
  using Type = typename Stored::Type;
  const Type* panels = static_cast<const Type*>(task.panels);
  const std::int64_t panel_stride = task.inputs * panel_width;
  if (task.n_blocks == 1) {
    const LinearBlock& block = task.blocks[0];
    std::int64_t panel = task.panel_begin;
    const std::int64_t whole =
        task.panel_end < task.outputs / panel_width ? task.panel_end : task.outputs / panel_width;
    if (block.rows == 1)
      for (; panel + one_row_panels <= whole; panel += one_row_panels)
        linear_tile<Widest, Stored, 1, one_row_panels, panel_vectors>(
            block.x, panels + panel * panel_stride, panel_stride, task.inputs, task.bias + panel * panel_width,
            block.y + panel * panel_width, block.y_stride);
    if constexpr (two_row_panels > 1) {
      if (block.rows == 2)
        for (; panel + two_row_panels <= whole; panel += two_row_panels)
          linear_tile<Widest, Stored, 2, two_row_panels, panel_vectors>(
              block.x, panels + panel * panel_stride, panel_stride, task.inputs, task.bias + panel * panel_width,
              block.y + panel * panel_width, block.y_stride);
    }
    for (; panel < task.panel_end; ++panel)
      one_tile<Stored>(task, block, panels + panel * panel_stride, panel, 0, task.inputs);
    return;
  }
  // Several blocks share each piece of a panel while it is in the first-level cache; many of them share its widening
  // too.
  const bool widen = sizeof(Type) != sizeof(float) && task.n_blocks >= blocks_worth_widening;
  for (std::int64_t panel = task.panel_begin; panel < task.panel_end; ++panel)
    for (std::int64_t begin = 0; begin < task.inputs || begin == 0; begin += linear_depth) {
      const std::int64_t depth = task.inputs - begin < linear_depth ? task.inputs - begin : linear_depth;
      const Type* w = panels + panel * panel_stride + begin * panel_width;
      if (widen)
        for (std::int64_t i = 0; i < depth * panel_width; i += Widest::width)
          Widest::store(task.scratch + i, Stored::template load<Widest>(w + i));
      for (std::int64_t b = 0; b < task.n_blocks; ++b) {
        if (widen)
          one_tile<StoredF32>(task, task.blocks[b], task.scratch, panel, begin, depth);
        else
          one_tile<Stored>(task, task.blocks[b], w, panel, begin, depth);
      }
    }
}

}  // namespace
}  // namespace kvgrind::kernels
