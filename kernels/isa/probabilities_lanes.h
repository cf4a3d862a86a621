// Logits, key-major, to rows of probabilities; see lanes.h for why nothing here is shared.
#pragma once
#include "kernels/isa/lanes.h"

namespace kvgrind::kernels {
namespace {

template <class L>
inline void probabilities_lanes(const float* logits, std::int64_t row_stride, std::int64_t begin, std::int64_t end,
                                const float* largest, const float* inverse_sum, float* p, std::int64_t p_stride) {
  for (std::int64_t row = 0; row < row_stride; row += L::width) {
    const auto peak = L::load(largest + row), inverse = L::load(inverse_sum + row);
    const auto weight = [&](std::int64_t j) __attribute__((always_inline)) {
      return exp_nonpositive<L>(L::load(logits + j * row_stride + row) - peak) * inverse;
    };
    float* to = p + row * p_stride;
    std::int64_t j = begin;
    for (; j + 4 <= end; j += 4) {
      auto a = weight(j), b = weight(j + 1), c = weight(j + 2), d = weight(j + 3);
      L::transpose4(a, b, c, d);
      L::store_quads(to + j, 4 * p_stride, a);
      L::store_quads(to + p_stride + j, 4 * p_stride, b);
      L::store_quads(to + 2 * p_stride + j, 4 * p_stride, c);
      L::store_quads(to + 3 * p_stride + j, 4 * p_stride, d);
    }
    for (; j < end; ++j) {
      float column[L::width];
      L::store(column, weight(j));
      for (int r = 0; r < L::width; ++r) to[r * p_stride + j] = column[r];
    }
  }
}

// p has row_stride rows.
inline void probabilities_any(const float* logits, std::int64_t row_stride, std::int64_t begin, std::int64_t end,
                              const float* largest, const float* inverse_sum, float* p, std::int64_t p_stride) {
  if (row_stride <= 2) {
    float four[4];
    for (std::int64_t row = 0; row < row_stride; ++row)
      for (std::int64_t j = begin; j < end; j += 4) {
        const std::int64_t keys = end - j < 4 ? end - j : 4;
        for (std::int64_t c = 0; c < 4; ++c) four[c] = c < keys ? logits[(j + c) * row_stride + row] : 0.0f;
        const auto x = L4::load(four) - L4::set(largest[row]);
        L4::store(four, exp_nonpositive<L4>(x) * L4::set(inverse_sum[row]));
        for (std::int64_t c = 0; c < keys; ++c) p[row * p_stride + j + c] = four[c];
      }
    return;
  }
#ifdef __AVX512F__
  if (row_stride % 16 == 0)
    return probabilities_lanes<L16>(logits, row_stride, begin, end, largest, inverse_sum, p, p_stride);
#endif
#ifdef __AVX2__
  if (row_stride % 8 == 0)
    return probabilities_lanes<L8>(logits, row_stride, begin, end, largest, inverse_sum, p, p_stride);
#endif
  probabilities_lanes<L4>(logits, row_stride, begin, end, largest, inverse_sum, p, p_stride);
}

}  // namespace
}  // namespace kvgrind::kernels
