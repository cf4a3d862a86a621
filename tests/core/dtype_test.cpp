#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/for_all.h"

namespace kvgrind {
namespace {

// A 16-bit float of `exponent_bits`, read by its definition.
double value_of(std::uint16_t bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

// Nearest magnitude by search over all of them, ties to the even pattern; past the middle of the last step: infinity.
std::uint16_t nearest(float value, int exponent_bits) {
  const std::uint16_t infinity = static_cast<std::uint16_t>(((1 << exponent_bits) - 1) << (15 - exponent_bits));
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  std::uint16_t low = 0, high = infinity;  // value_of(low) <= magnitude < value_of(high), infinity as the next step
  const auto step = [&](std::uint16_t bits) {
    return bits < infinity ? value_of(bits, exponent_bits)
                           : 2 * value_of(infinity - 1, exponent_bits) - value_of(infinity - 2, exponent_bits);
  };
  if (magnitude >= step(infinity)) return sign | infinity;
  while (high - low > 1) {
    const std::uint16_t middle = static_cast<std::uint16_t>((low + high) / 2);
    (value_of(middle, exponent_bits) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - step(low), above = step(high) - magnitude;
  if (below < above) return sign | low;
  if (above < below) return sign | high;
  return sign | (low % 2 == 0 ? low : high);
}

struct Kind {
  DType dtype;
  int exponent_bits;
  float (*from)(std::uint16_t);
  std::uint16_t (*to)(float);
};
const Kind kinds[] = {{DType::f16, 5, from_f16, to_f16}, {DType::bf16, 8, from_bf16, to_bf16}};

TEST(DType, All65536PatternsReadAndRoundTrip) {
  for (const Kind& kind : kinds)
    for (int pattern = 0; pattern < 65536; ++pattern) {
      const auto bits = static_cast<std::uint16_t>(pattern);
      const double expected = value_of(bits, kind.exponent_bits);
      const float value = kind.from(bits);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << pattern;
        ASSERT_TRUE(std::isnan(value_of(kind.to(value), kind.exponent_bits))) << pattern;
        continue;
      }
      ASSERT_EQ(static_cast<double>(value), expected) << dtype_name(kind.dtype) << ' ' << pattern;
      ASSERT_EQ(std::signbit(value), pattern >= 0x8000) << pattern;
      ASSERT_EQ(kind.to(value), bits) << dtype_name(kind.dtype) << ' ' << pattern;
    }
}

TEST(DType, RoundsEveryMiddleToEven) {
  for (const Kind& kind : kinds) {
    const int infinity = ((1 << kind.exponent_bits) - 1) << (15 - kind.exponent_bits);
    for (int pattern = 0; pattern + 1 < infinity; ++pattern) {
      const auto low = static_cast<std::uint16_t>(pattern);
      const double middle = (value_of(low, kind.exponent_bits) + value_of(low + 1, kind.exponent_bits)) / 2;
      const auto at = static_cast<float>(middle);
      for (const float value : {at, std::nextafter(at, 0.0f), std::nextafter(at, 1e38f), -at})
        ASSERT_EQ(kind.to(value), nearest(value, kind.exponent_bits)) << dtype_name(kind.dtype) << ' ' << value;
    }
  }
}

TEST(DType, RoundsRandomFloatsToNearest) {
  tests::for_all(21, 20000, [](std::mt19937_64& rng) {
    const float any = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
    const float near_half =
        std::ldexp(1.0f + static_cast<float>(rng() >> 40) * 0x1p-24f, static_cast<int>(rng() % 46) - 28);
    for (const float value : {any, near_half, -near_half})
      for (const Kind& kind : kinds) {
        if (std::isnan(value))
          ASSERT_TRUE(std::isnan(kind.from(kind.to(value))));
        else
          ASSERT_EQ(kind.to(value), nearest(value, kind.exponent_bits)) << dtype_name(kind.dtype) << ' ' << value;
      }
  });
}

TEST(DType, OverflowIsInfinity) {
  EXPECT_EQ(to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(to_f16(65519.99f), 0x7bff);
  EXPECT_EQ(to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(to_bf16(-std::numeric_limits<float>::infinity()), 0xff80);
}

TEST(DType, ArraysConvertFromAnyAlignment) {
  const std::vector<float> values = {0.0f, -1.5f, 3.140625f, 1e-8f, 65504.0f, -0.0f, 0.333251953125f};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const auto bytes = static_cast<std::size_t>(size_bytes(dtype)) * values.size();
    std::vector<unsigned char> raw(bytes + 3, 0xaa);
    from_f32(dtype, values.data(), static_cast<std::int64_t>(values.size()), raw.data() + 1);
    EXPECT_EQ(raw[0], 0xaa);
    EXPECT_EQ(raw[bytes + 1], 0xaa);
    std::vector<float> back(values.size() + 1, 7.0f);
    to_f32(dtype, raw.data() + 1, static_cast<std::int64_t>(values.size()), back.data());
    EXPECT_EQ(back.back(), 7.0f);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float expected = dtype == DType::f32   ? values[i]
                             : dtype == DType::f16 ? from_f16(to_f16(values[i]))
                                                   : from_bf16(to_bf16(values[i]));
      EXPECT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::bit_cast<std::uint32_t>(expected)) << i;
    }
  }
}

TEST(DType, NamesGoBothWays) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  EXPECT_FALSE(dtype_from_name("f64"));
}

}  // namespace
}  // namespace kvgrind
