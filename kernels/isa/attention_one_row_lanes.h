// One query of one head against all keys: keys along the lanes for the logits, dims along the lanes for the output.
// Every value is computed by the very chain that attention_lanes.h lists, so the bits are those of the row in a larger
// block.
#pragma once
#include "kernels/isa/kernel_table.h"
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

constexpr float least_logit = -3e38f;  // stands for −inf as a maximum: −inf − (−inf) is NaN

// The narrower vectors win here: the transposition costs more than the multiply-adds.
#ifdef __AVX2__
using KeyLanes = L8;
#else
using KeyLanes = L4;
#endif

// s[j] = scale · Σ_d q[d] k[j][d] for G groups of lanes of keys.
template <int G>
inline void score_keys(const float* q, std::int64_t dims, const float* k, std::int64_t k_stride, float scale,
                       float* s) {
  using L = KeyLanes;
  typename L::F sum[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) sum[g] = L::zero();
  std::int64_t d = 0;
  for (; d + 4 <= dims; d += 4)
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const float* at = k + g * L::width * k_stride + d;
      typename L::F part[4];  // of row i and, in the next four lanes, of row i + 4
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) part[i] = L::load_quads(at + i * k_stride, 4 * k_stride);
      L::transpose4(part[0], part[1], part[2], part[3]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sum[g] = L::fma(part[i], L::set(q[d + i]), sum[g]);
    }
  for (; d < dims; ++d)
    for (int g = 0; g < G; ++g) {
      float column[L::width];
      for (int j = 0; j < L::width; ++j) column[j] = k[(g * L::width + j) * k_stride + d];
      sum[g] = L::fma(L::load(column), L::set(q[d]), sum[g]);
    }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) L::store(s + g * L::width, sum[g] * L::set(scale));
}

inline void score_one_row(const float* q, std::int64_t dims, const float* k, std::int64_t k_stride, std::int64_t keys,
                          float scale, float* s) {
  constexpr std::int64_t width = KeyLanes::width;
  std::int64_t j = 0;
  for (; j + 2 * width <= keys; j += 2 * width) score_keys<2>(q, dims, k + j * k_stride, k_stride, scale, s + j);
  for (; j + width <= keys; j += width) score_keys<1>(q, dims, k + j * k_stride, k_stride, scale, s + j);
  for (; j < keys; ++j) {
    auto sum = L4::zero();
    for (std::int64_t d = 0; d < dims; ++d) sum = L4::fma(L4::set(k[j * k_stride + d]), L4::set(q[d]), sum);
    float four[4];
    L4::store(four, sum * L4::set(scale));
    s[j] = four[0];
  }
}

template <class L, int V>
inline void output_dims(const float* p, std::int64_t keys, const float* values, std::int64_t v_stride, float* o) {
  typename L::F sum[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sum[v] = L::load(o + v * L::width);
  for (std::int64_t j = 0; j < keys; ++j) {
    const auto weight = L::set(p[j]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[v] = L::fma(L::load(values + j * v_stride + v * L::width), weight, sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) L::store(o + v * L::width, sum[v]);
}

inline void output_one_row(const float* p, std::int64_t keys, const float* values, std::int64_t v_stride,
                           std::int64_t dims, float* o) {
  constexpr std::int64_t width = Widest::width;
  std::int64_t d = 0;
  for (; d + 8 * width <= dims; d += 8 * width) output_dims<Widest, 8>(p, keys, values + d, v_stride, o + d);
  for (; d + 4 * width <= dims; d += 4 * width) output_dims<Widest, 4>(p, keys, values + d, v_stride, o + d);
  for (; d + width <= dims; d += width) output_dims<Widest, 1>(p, keys, values + d, v_stride, o + d);
  for (; d + 4 <= dims; d += 4) output_dims<L4, 1>(p, keys, values + d, v_stride, o + d);
  for (; d < dims; ++d) {
    auto sum = L4::set(o[d]);
    for (std::int64_t j = 0; j < keys; ++j) sum = L4::fma(L4::set(values[j * v_stride + d]), L4::set(p[j]), sum);
    float four[4];
    L4::store(four, sum);
    o[d] = four[0];
  }
}

// In a mixed tile.
inline bool sees(const AttentionBlock& a, std::int64_t row, std::int64_t key) {
  return a.row_low[row] < a.key_at[key] && a.key_at[key] <= a.row_high[row];
}

// Cap, count bias and mask; s is padded to whole vectors.
inline void finish_one_row(const AttentionBlock& a, std::int64_t row, std::int64_t first_key, std::int64_t keys,
                           bool mixed, float* s) {
  using L = Widest;
  if (a.softcap != 0.0f)
    for (std::int64_t j = 0; j < keys; j += L::width)
      L::store(s + j, tanh_lanes<L>(L::load(s + j) / L::set(a.softcap)) * L::set(a.softcap));
  if (a.log_count)
    for (std::int64_t j = 0; j < keys; ++j) s[j] = s[j] + a.log_count[first_key + j];
  if (mixed)
    for (std::int64_t j = 0; j < keys; ++j)
      if (!sees(a, row, first_key + j)) s[j] = -__builtin_inff();
}

inline void attention_one_row(const AttentionBlock& a, std::int64_t row, std::int64_t row_stride) {
  using L = Widest;
  const float* q = a.q + row * a.q_stride;
  float* o = a.scratch;        // [dims]
  float* s = o + 64 * a.dims;  // [tile], whole vectors
  for (std::int64_t d = 0; d < a.dims; ++d) o[d] = 0.0f;
  const bool counts = a.sink && !(*a.sink < least_logit);
  float four[4];
  auto largest = L4::set(counts ? *a.sink : least_logit);
  auto sum = L4::set(counts ? *a.sink - *a.sink + 1.0f : 0.0f);
  for (std::int64_t first = 0, tile = 0; first < a.n_k; first += attention_tile, ++tile) {
    if (a.tile_state[tile] == 0) continue;
    const std::int64_t keys = a.n_k - first < attention_tile ? a.n_k - first : attention_tile;
    score_one_row(q, a.dims, a.k + first * a.k_stride, a.k_stride, keys, a.scale, s);
    for (std::int64_t j = keys; j < attention_tile; ++j) s[j] = 0.0f;
    finish_one_row(a, row, first, keys, a.tile_state[tile] == 1, s);
    for (std::int64_t j = keys; j < attention_tile; ++j) s[j] = -__builtin_inff();  // weighs 0; a cap must not lift it
    auto peaks = L::set(least_logit);
    for (std::int64_t j = 0; j < attention_tile; j += L::width) peaks = L::max(L::load(s + j), peaks);
    float peak_of[L::width];
    L::store(peak_of, peaks);
    const auto before = largest;
    for (int lane = 0; lane < L::width; ++lane) largest = L4::max(L4::set(peak_of[lane]), largest);
    const auto rescale = exp_nonpositive<L4>(before - largest);
    L4::store(four, largest);
    const auto peak = L::set(four[0]);
    for (std::int64_t j = 0; j < attention_tile; j += L::width)
      L::store(s + j, exp_nonpositive<L>(L::load(s + j) - peak));
    if (a.weights) {
      a.tile_largest[tile * row_stride + row] = four[0];
      for (std::int64_t j = 0; j < keys; ++j) a.weights[(first + j) * row_stride + row] = s[j];
    }
    auto part = L4::zero();
    for (std::int64_t j = 0; j < keys; j += 4) part = part + L4::load(s + j);
    L4::store(four, part);
    sum = L4::fma(sum, rescale, L4::set((four[0] + four[1]) + (four[2] + four[3])));
    if (!a.out) continue;
    if (L4::any_not_equal(rescale, L4::set(1.0f))) {
      L4::store(four, rescale);
      for (std::int64_t d = 0; d < a.dims; ++d) o[d] *= four[0];
    }
    const float* values = a.v + first * a.v_stride;
    if (!a.hide_masked_values || a.tile_state[tile] == 2) {
      output_one_row(s, keys, values, a.v_stride, a.dims, o);
    } else {
      for (std::int64_t j = 0; j < keys; ++j)
        if (sees(a, row, first + j)) output_one_row(s + j, 1, values + j * a.v_stride, a.v_stride, a.dims, o);
    }
  }
  L4::store(four, largest);
  a.largest[row] = four[0];
  L4::store(four, sum);
  a.sum[row] = four[0];
  const float inverse = four[0] == 0.0f ? 0.0f : 1.0f / four[0];
  if (a.out)
    for (std::int64_t d = 0; d < a.dims; ++d) a.out[row * a.out_stride + d] = o[d] * inverse;
}

}  // namespace
}  // namespace kvgrind::kernels
