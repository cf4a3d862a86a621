// Weights of a tile, key-major, to rows of probabilities; see lanes.h for why nothing here is shared.
#pragma once
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

template <class L>
inline void probabilities_lanes(const float* weights, std::int64_t row_stride, std::int64_t keys,
                                const float* tile_largest, const float* largest, const float* inverse_sum, float* p,
                                std::int64_t p_stride) {
  for (std::int64_t row = 0; row < row_stride; row += L::width) {
    const auto rescale = exp_nonpositive<L>(L::load(tile_largest + row) - L::load(largest + row));
    const auto factor = rescale * L::load(inverse_sum + row);
    const float* from = weights + row;
    float* to = p + row * p_stride;
    std::int64_t j = 0;
    for (; j + 4 <= keys; j += 4) {
      typename L::F part[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) part[i] = L::load(from + (j + i) * row_stride) * factor;
      L::transpose4(part[0], part[1], part[2], part[3]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) L::store_quads(to + i * p_stride + j, 4 * p_stride, part[i]);
    }
    for (; j < keys; ++j) {
      float column[L::width];
      L::store(column, L::load(from + j * row_stride) * factor);
      for (int r = 0; r < L::width; ++r) to[r * p_stride + j] = column[r];
    }
  }
}

// p has row_stride rows.
inline void probabilities_any(const float* weights, std::int64_t row_stride, std::int64_t keys,
                              const float* tile_largest, const float* largest, const float* inverse_sum, float* p,
                              std::int64_t p_stride) {
  if (row_stride <= 2) {
    float four[4];
    for (std::int64_t row = 0; row < row_stride; ++row) {
      L4::store(four, exp_nonpositive<L4>(L4::set(tile_largest[row]) - L4::set(largest[row])));
      const float factor = four[0] * inverse_sum[row];
      for (std::int64_t j = 0; j < keys; ++j) p[row * p_stride + j] = weights[j * row_stride + row] * factor;
    }
    return;
  }
#ifdef __AVX512F__
  if (row_stride % 16 == 0)
    return probabilities_lanes<L16>(weights, row_stride, keys, tile_largest, largest, inverse_sum, p, p_stride);
#endif
#ifdef __AVX2__
  if (row_stride % 8 == 0)
    return probabilities_lanes<L8>(weights, row_stride, keys, tile_largest, largest, inverse_sum, p, p_stride);
#endif
  probabilities_lanes<L4>(weights, row_stride, keys, tile_largest, largest, inverse_sum, p, p_stride);
}

}  // namespace
}  // namespace kvgrind::kernels
