#include "core/dtype.h"

#include <cstring>

namespace kvgrind {

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

float from_f16(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to ≥ 65536
  if (magnitude < 0x38800000u) {  // subnormal half: adding 0.5 aligns the mantissa so the FPU rounds it
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
  return static_cast<std::uint16_t>(sign | (rounded >> 13));
}

void to_f32(DType dtype, const void* in, std::int64_t n, float* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, in, static_cast<std::size_t>(n) * 4);
    return;
  }
  const auto* bytes = static_cast<const unsigned char*>(in);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint16_t raw;
    std::memcpy(&raw, bytes + 2 * i, 2);
    out[i] = dtype == DType::bf16 ? from_bf16(raw) : from_f16(raw);
  }
}

void from_f32(DType dtype, const float* in, std::int64_t n, void* out) {
  if (dtype == DType::f32) {
    std::memcpy(out, in, static_cast<std::size_t>(n) * 4);
    return;
  }
  auto* bytes = static_cast<unsigned char*>(out);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint16_t raw = dtype == DType::bf16 ? to_bf16(in[i]) : to_f16(in[i]);
    std::memcpy(bytes + 2 * i, &raw, 2);
  }
}

}  // namespace kvgrind
