// Eight-bit floats (e4m3): sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, 0x7f is NaN, largest 448,
// smallest 2^-9. One byte a value and nothing else: no scale, as serving engines store an fp8 cache by default.
//   rounding: to the nearest, ties to the even code; beyond 448 the value saturates; NaN stays NaN
// Source: Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/array.h"
#include "sim/engine/codec.h"

namespace kvgrind::sim {

std::uint8_t to_e4m3(float x);
float from_e4m3(std::uint8_t code);

class Fp8Codec final : public Codec {
 public:
  std::string text() const override { return "fp8(format=e4m3)"; }
  void encode(Part part, View<float, 2> x) const override;
  std::int64_t stored_bytes(Part, std::int64_t n, std::int64_t head_dim) const override { return n * head_dim; }
  std::int64_t ideal_bytes(Part, std::int64_t n, std::int64_t head_dim) const override { return n * head_dim; }

  std::vector<std::byte> pack(View<const float, 2> x) const;  // row by row
  Array<float, 2> unpack(const std::vector<std::byte>& packed, std::int64_t n, std::int64_t head_dim) const;
};

}  // namespace kvgrind::sim
