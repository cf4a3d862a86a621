// Element types that cross the disk or sit in weights, and their exact conversions to and from fp32.
#pragma once
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace kvgrind {

enum class DType : std::uint8_t { f32, f16, bf16 };

constexpr std::int64_t size_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
constexpr std::string_view dtype_name(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::f16 ? "f16" : "bf16";
}
std::optional<DType> dtype_from_name(std::string_view name);

// bf16 ↔ f32: round to nearest even; NaN stays NaN (quiet).
inline float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
inline std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE half ↔ f32: round to nearest even, subnormals exact, overflow to infinity.
float from_f16(std::uint16_t bits);
std::uint16_t to_f16(float value);

// n elements of `dtype` at `in` (any alignment) to fp32, and the reverse. `in` and `out` must not overlap.
void to_f32(DType dtype, const void* in, std::int64_t n, float* out);
void from_f32(DType dtype, const float* in, std::int64_t n, void* out);

}  // namespace kvgrind
