#include "sim/codec/fp8_codec.h"

#include <bit>
#include <cassert>
#include <cmath>

namespace kvgrind::sim {
namespace {
constexpr int bias = 7, mantissa_bits = 3, smallest_exponent = 1 - bias;
constexpr float largest = 448.0f;
constexpr std::uint8_t nan_code = 0x7f, largest_code = 0x7e;
}  // namespace

std::uint8_t to_e4m3(float x) {
  const auto sign = static_cast<std::uint8_t>(std::signbit(x) ? 0x80 : 0);
  const float size = std::abs(x);
  if (std::isnan(size)) return sign | nan_code;
  if (size >= largest) return sign | largest_code;
  // In units of the last place at this exponent (subnormals share the smallest one) rounding is to a whole number, and
  // a carry walks into the exponent by itself.
  const auto bits = std::bit_cast<std::uint32_t>(size);
  const int exponent = std::max(static_cast<int>(bits >> 23) - 127, smallest_exponent);
  const float scale = std::bit_cast<float>(static_cast<std::uint32_t>(127 + mantissa_bits - exponent) << 23);
  constexpr float shift = 12582912.0f;  // 1.5 · 2²³: the sum's last place is 1, so it rounds to even
  const auto steps = static_cast<int>(size * scale + shift - shift);
  return sign | static_cast<std::uint8_t>(((exponent - smallest_exponent) << mantissa_bits) + steps);
}

float from_e4m3(std::uint8_t code) {
  const int size = code & 0x7f, exponent = size >> mantissa_bits, mantissa = size & 7;
  float x = std::nanf("");
  if (size != nan_code)
    x = exponent == 0
            ? static_cast<float>(mantissa) * 0x1p-9f
            : std::bit_cast<float>(static_cast<std::uint32_t>((exponent - bias + 127) << 23 | mantissa << 20));
  return (code & 0x80) ? -x : x;
}

std::vector<std::byte> Fp8Codec::pack(View<const float, 2> x) const {
  std::vector<std::byte> out;
  out.reserve(static_cast<std::size_t>(x.extent(0) * x.extent(1)));
  for (std::int64_t i = 0; i < x.extent(0); ++i)
    for (std::int64_t d = 0; d < x.extent(1); ++d) out.push_back(static_cast<std::byte>(to_e4m3(x(i, d))));
  return out;
}

Array<float, 2> Fp8Codec::unpack(const std::vector<std::byte>& packed, std::int64_t n, std::int64_t head_dim) const {
  assert(static_cast<std::int64_t>(packed.size()) == stored_bytes(Part::key, n, head_dim));
  Array<float, 2> out({n, head_dim});
  for (std::size_t i = 0; i < packed.size(); ++i) out.data()[i] = from_e4m3(static_cast<std::uint8_t>(packed[i]));
  return out;
}

void Fp8Codec::encode(Part, View<float, 2> x) const {
  for (std::int64_t i = 0; i < x.extent(0); ++i)
    for (std::int64_t d = 0; d < x.extent(1); ++d) x(i, d) = from_e4m3(to_e4m3(x(i, d)));
}

}  // namespace kvgrind::sim
