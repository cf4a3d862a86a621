// One block of queries of one head against all keys, tile by tile with a running maximum; see lanes.h for why nothing
// here is shared. Queries lie along the lanes: scores and outputs are kept transposed, [key][row] and [dim][row], so
// that neither keys nor values are ever repacked and every step is the same in each lane. Each row's arithmetic is
//   logit   one chain of FMAs over the dims, then scale, cap, count bias, mask
//   sum     four chains by key index modulo 4 in a tile, joined pairwise, tiles in order
//   out     one chain of FMAs over the keys, rescaled at a tile where the row's maximum grew
// whatever the other rows of the block are. A tile that a row does not see multiplies by 1 and adds 0.
#pragma once
#include "kernels/isa/attention_one_row_lanes.h"
#include "kernels/isa/kernel_table.h"
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

// s[key][row] = scale · Σ_d q[d][row] k[key][d] for K keys and V vectors of rows.
template <class L, int K, int V>
inline void score_tile(const float* q, std::int64_t row_stride, std::int64_t dims, const float* k,
                       std::int64_t k_stride, float scale, float* s) {
  typename L::F sum[K][V];
#pragma GCC unroll 16
  for (int j = 0; j < K; ++j)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[j][v] = L::zero();
  for (std::int64_t d = 0; d < dims; ++d) {
    typename L::F query[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) query[v] = L::load(q + d * row_stride + v * L::width);
#pragma GCC unroll 16
    for (int j = 0; j < K; ++j) {
      const auto key = L::set(k[j * k_stride + d]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[j][v] = L::fma(key, query[v], sum[j][v]);
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < K; ++j)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) L::store(s + j * row_stride + v * L::width, sum[j][v] * L::set(scale));
}

// o[dim][row] += Σ_j p[j][row] v[j][dim] for D dims and V vectors of rows.
template <class L, int D, int V>
inline void output_tile(const float* p, std::int64_t row_stride, std::int64_t keys, const float* values,
                        std::int64_t v_stride, float* o) {
  typename L::F sum[D][V];
#pragma GCC unroll 16
  for (int d = 0; d < D; ++d)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[d][v] = L::load(o + d * row_stride + v * L::width);
  for (std::int64_t j = 0; j < keys; ++j) {
    typename L::F weight[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) weight[v] = L::load(p + j * row_stride + v * L::width);
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      const auto value = L::set(values[j * v_stride + d]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[d][v] = L::fma(value, weight[v], sum[d][v]);
    }
  }
#pragma GCC unroll 16
  for (int d = 0; d < D; ++d)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) L::store(o + d * row_stride + v * L::width, sum[d][v]);
}

#ifdef __AVX512F__
constexpr int attention_sums = 24, attention_vectors = 4;
#else
constexpr int attention_sums = 12, attention_vectors = 2;
#endif

// Walks `count` keys (or dims) in steps of a register tile: large steps, then 4, then 1.
template <class L, int V>
inline void score_columns(const AttentionBlock& a, const float* q, std::int64_t row_stride, const float* k,
                          std::int64_t keys, float* s) {
  constexpr int step = attention_sums / V < 12 ? attention_sums / V : 12;
  std::int64_t j = 0;
  for (; j + step <= keys; j += step)
    score_tile<L, step, V>(q, row_stride, a.dims, k + j * a.k_stride, a.k_stride, a.scale, s + j * row_stride);
  if constexpr (step > 4)
    for (; j + 4 <= keys; j += 4)
      score_tile<L, 4, V>(q, row_stride, a.dims, k + j * a.k_stride, a.k_stride, a.scale, s + j * row_stride);
  for (; j < keys; ++j)
    score_tile<L, 1, V>(q, row_stride, a.dims, k + j * a.k_stride, a.k_stride, a.scale, s + j * row_stride);
}

template <class L, int V>
inline void output_columns(const AttentionBlock& a, const float* p, std::int64_t row_stride, const float* values,
                           std::int64_t v_stride, std::int64_t keys, float* o) {
  constexpr int step = attention_sums / V < 8 ? attention_sums / V : 8;
  std::int64_t d = 0;
  for (; d + step <= a.dims; d += step)
    output_tile<L, step, V>(p, row_stride, keys, values + d, v_stride, o + d * row_stride);
  if constexpr (step > 4)
    for (; d + 4 <= a.dims; d += 4) output_tile<L, 4, V>(p, row_stride, keys, values + d, v_stride, o + d * row_stride);
  for (; d < a.dims; ++d) output_tile<L, 1, V>(p, row_stride, keys, values + d, v_stride, o + d * row_stride);
}

// Calls f.template at<V>(first row) over all rows with the widest register tiles that fit.
template <class L, class F>
inline void over_rows(std::int64_t row_stride, F f) {
  std::int64_t row = 0;
  if constexpr (attention_vectors >= 4)
    for (; row + 4 * L::width <= row_stride; row += 4 * L::width) f.template at<4>(row);
  for (; row + 2 * L::width <= row_stride; row += 2 * L::width) f.template at<2>(row);
  for (; row < row_stride; row += L::width) f.template at<1>(row);
}

template <class L>
struct ScoreRows {
  const AttentionBlock& a;
  const float* q;
  std::int64_t row_stride;
  const float* k;
  std::int64_t keys;
  float* s;
  template <int V>
  void at(std::int64_t row) {
    score_columns<L, V>(a, q + row, row_stride, k, keys, s + row);
  }
};

template <class L>
struct OutputRows {
  const AttentionBlock& a;
  const float* p;
  std::int64_t row_stride;
  const float* values;
  std::int64_t v_stride, keys;
  float* o;
  template <int V>
  void at(std::int64_t row) {
    output_columns<L, V>(a, p + row, row_stride, values, v_stride, keys, o + row);
  }
};

// Cap, count bias and mask of a tile in place.
template <class L>
inline void finish_logits(const AttentionBlock& a, std::int64_t first_key, std::int64_t keys, bool mixed,
                          std::int64_t row_stride, float* s) {
  if (a.softcap != 0.0f || a.log_count)
    for (std::int64_t j = 0; j < keys; ++j)
      for (std::int64_t row = 0; row < row_stride; row += L::width) {
        auto x = L::load(s + j * row_stride + row);
        if (a.softcap != 0.0f) x = tanh_lanes<L>(x / L::set(a.softcap)) * L::set(a.softcap);
        if (a.log_count) x = x + L::set(a.log_count[first_key + j]);
        L::store(s + j * row_stride + row, x);
      }
  if (!mixed) return;
  for (std::int64_t j = 0; j < keys; ++j)
    for (std::int64_t row = 0; row < row_stride; row += L::width) {
      float* at = s + j * row_stride + row;
      L::store(at,
               L::in_range(L::load(at), a.row_low + row, a.row_high + row, a.key_at[first_key + j], -__builtin_inff()));
    }
}

// Logits to weights in place; moves the running maximum and sum of one vector of rows. Returns the factor that brings
// what was summed before to the new maximum.
template <class L>
inline typename L::F weigh(std::int64_t keys, std::int64_t row_stride, float* s, float* largest, float* sum) {
  const auto before = L::load(largest);
  auto peak = before;
  for (std::int64_t j = 0; j < keys; ++j) peak = L::max(L::load(s + j * row_stride), peak);
  const auto rescale = exp_nonpositive<L>(before - peak);
  typename L::F part[4] = {L::zero(), L::zero(), L::zero(), L::zero()};
  std::int64_t j = 0;
  for (; j + 4 <= keys; j += 4)
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      float* at = s + (j + c) * row_stride;
      const auto e = exp_nonpositive<L>(L::load(at) - peak);
      L::store(at, e);
      part[c] = part[c] + e;
    }
  for (int c = 0; j < keys; ++j, ++c) {
    const auto e = exp_nonpositive<L>(L::load(s + j * row_stride) - peak);
    L::store(s + j * row_stride, e);
    part[c] = part[c] + e;
  }
  L::store(largest, peak);
  L::store(sum, L::fma(L::load(sum), rescale, (part[0] + part[1]) + (part[2] + part[3])));
  return rescale;
}

// q [row][dim] → [dim][row], rows beyond the block 0.
template <class L>
inline void queries_in(const AttentionBlock& a, std::int64_t row_stride, float* q) {
  for (std::int64_t row = 0; row < row_stride; row += L::width) {
    std::int64_t d = 0;
    const float* from = a.q + row * a.q_stride;
    if (row + L::width <= a.rows)
      for (; d + 4 <= a.dims; d += 4) {
        typename L::F part[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) part[i] = L::load_quads(from + i * a.q_stride + d, 4 * a.q_stride);
        L::transpose4(part[0], part[1], part[2], part[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) L::store(q + (d + i) * row_stride + row, part[i]);
      }
    for (; d < a.dims; ++d)
      for (std::int64_t r = 0; r < L::width; ++r)
        q[d * row_stride + row + r] = row + r < a.rows ? from[r * a.q_stride + d] : 0.0f;
  }
}

// o [dim][row] over the row's sum → out [row][dim]; 0 where the sum is 0.
template <class L>
inline void outputs_out(const AttentionBlock& a, std::int64_t row_stride, const float* o, const float* sum) {
  float inverse_of[64];
  for (std::int64_t r = 0; r < row_stride; ++r) inverse_of[r] = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
  for (std::int64_t row = 0; row < row_stride; row += L::width) {
    const auto inverse = L::load(inverse_of + row);
    float* to = a.out + row * a.out_stride;
    std::int64_t d = 0;
    if (row + L::width <= a.rows)
      for (; d + 4 <= a.dims; d += 4) {
        typename L::F part[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) part[i] = L::load(o + (d + i) * row_stride + row) * inverse;
        L::transpose4(part[0], part[1], part[2], part[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) L::store_quads(to + i * a.out_stride + d, 4 * a.out_stride, part[i]);
      }
    for (; d < a.dims; ++d)
      for (std::int64_t r = 0; r < L::width && row + r < a.rows; ++r)
        to[r * a.out_stride + d] = o[d * row_stride + row + r] * inverse_of[row + r];
  }
}

template <class L>
inline void attention_lanes(const AttentionBlock& a, std::int64_t row_stride) {
  float* q = a.scratch;                      // [dims][row_stride]
  float* o = q + 64 * a.dims;                // [dims][row_stride]
  float* s = o + 64 * a.dims;                // [tile][row_stride]
  float* largest = s + 64 * attention_tile;  // [row_stride]
  float* sum = largest + 64;                 // [row_stride]
  queries_in<L>(a, row_stride, q);
  for (std::int64_t i = 0; i < a.dims * row_stride; i += L::width) L::store(o + i, L::zero());
  for (std::int64_t r = 0; r < row_stride; ++r) {
    const bool counts = a.sink && !(*a.sink < least_logit);
    largest[r] = counts ? *a.sink : least_logit;
    sum[r] = counts ? *a.sink - *a.sink + 1.0f : 0.0f;  // 1, or NaN for a sink that is not finite
  }
  for (std::int64_t first = 0, tile = 0; first < a.n_k; first += attention_tile, ++tile) {
    if (a.tile_state[tile] == 0) continue;
    const std::int64_t keys = a.n_k - first < attention_tile ? a.n_k - first : attention_tile;
    float* scores = a.weights ? a.weights + first * row_stride : s;
    over_rows<L>(row_stride, ScoreRows<L>{a, q, row_stride, a.k + first * a.k_stride, keys, scores});
    if (a.softcap != 0.0f || a.log_count || a.tile_state[tile] == 1)
      finish_logits<L>(a, first, keys, a.tile_state[tile] == 1, row_stride, scores);
    for (std::int64_t row = 0; row < row_stride; row += L::width) {
      const auto rescale = weigh<L>(keys, row_stride, scores + row, largest + row, sum + row);
      if (a.weights) L::store(a.tile_largest + tile * row_stride + row, L::load(largest + row));
      if (a.out && L::any_not_equal(rescale, L::set(1.0f)))
        for (std::int64_t d = 0; d < a.dims; ++d)
          L::store(o + d * row_stride + row, L::load(o + d * row_stride + row) * rescale);
    }
    if (!a.out) continue;
    over_rows<L>(row_stride, OutputRows<L>{a, scores, row_stride, a.v + first * a.v_stride, a.v_stride, keys, o});
  }
  for (std::int64_t r = 0; r < a.rows; ++r) {
    a.largest[r] = largest[r];
    a.sum[r] = sum[r];
  }
  if (a.out) outputs_out<L>(a, row_stride, o, sum);
}

// One or two rows are done one by one, [key][row] dense; more in the narrowest vectors that hold them.
inline std::int64_t attention_row_stride(std::int64_t rows) {
  if (rows <= 2) return rows;
#if defined(__AVX512F__)
  const std::int64_t width = rows > 8 ? 16 : rows > 4 ? 8 : 4;
#elif defined(__AVX2__)
  const std::int64_t width = rows > 4 ? 8 : 4;
#else
  const std::int64_t width = 4;
#endif
  return (rows + width - 1) / width * width;
}

inline void attention_any(const AttentionBlock& a) {
  const std::int64_t row_stride = attention_row_stride(a.rows);
  if (a.rows <= 2) {
    for (std::int64_t row = 0; row < a.rows; ++row) attention_one_row(a, row, row_stride);
    return;
  }
#ifdef __AVX512F__
  if (a.rows > 8) return attention_lanes<L16>(a, row_stride);
#endif
#ifdef __AVX2__
  if (a.rows > 4) return attention_lanes<L8>(a, row_stride);
#endif
  attention_lanes<L4>(a, row_stride);
}

}  // namespace
}  // namespace kvgrind::kernels
