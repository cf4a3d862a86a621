#include "sim/codec/affine_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dtype.h"

namespace kvgrind::sim {
namespace {
constexpr std::int64_t group_bytes = 4;  // min and step in fp16
}

AffineCodec::AffineCodec(int bits, std::int64_t group, Axis axis) : bits_(bits), group_(group), axis_(axis) {
  assert(bits >= 1 && bits <= 8 && group >= 1);
}

std::string AffineCodec::text() const {
  return fmt::format("affine(bits={},group={},axis={})", bits_, group_, axis_ == Axis::token ? "token" : "channel");
}

std::int64_t AffineCodec::groups(std::int64_t n, std::int64_t head_dim) const {
  const auto parts = [this](std::int64_t length) { return (length + group_ - 1) / group_; };
  return axis_ == Axis::token ? n * parts(head_dim) : head_dim * parts(n);
}

std::int64_t AffineCodec::group_of(std::int64_t row, std::int64_t column, std::int64_t head_dim) const {
  if (axis_ == Axis::token) return row * ((head_dim + group_ - 1) / group_) + column / group_;
  return row / group_ * head_dim + column;
}

std::int64_t AffineCodec::ideal_bytes(Part, std::int64_t n, std::int64_t head_dim) const {
  return (n * head_dim * bits_ + 7) / 8;
}

std::int64_t AffineCodec::stored_bytes(Part part, std::int64_t n, std::int64_t head_dim) const {
  return ideal_bytes(part, n, head_dim) + group_bytes * groups(n, head_dim);
}

std::vector<std::byte> AffineCodec::pack(View<const float, 2> x) const {
  const std::int64_t n = x.extent(0), dim = x.extent(1);
  std::vector<float> low(static_cast<std::size_t>(groups(n, dim)), std::numeric_limits<float>::infinity());
  std::vector<float> high(low.size(), -std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto g = static_cast<std::size_t>(group_of(i, d, dim));
      low[g] = std::min(low[g], x(i, d));
      high[g] = std::max(high[g], x(i, d));
    }
  const std::int64_t code_bytes = ideal_bytes(Part::key, n, dim);
  std::vector<std::byte> out(static_cast<std::size_t>(stored_bytes(Part::key, n, dim)));
  const auto largest = static_cast<float>((1 << bits_) - 1);
  std::vector<float> step(low.size());
  for (std::size_t g = 0; g < low.size(); ++g) {
    const std::uint16_t stored[2] = {to_f16(low[g]), to_f16((high[g] - low[g]) / largest)};
    low[g] = from_f16(stored[0]);
    step[g] = from_f16(stored[1]);
    std::memcpy(out.data() + code_bytes + static_cast<std::int64_t>(g) * group_bytes, stored, sizeof stored);
  }
  std::int64_t bit = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto g = static_cast<std::size_t>(group_of(i, d, dim));
      const float steps = step[g] > 0 ? std::nearbyint((x(i, d) - low[g]) / step[g]) : 0.0f;
      const auto code = static_cast<unsigned>(std::clamp(steps, 0.0f, largest));
      for (int b = 0; b < bits_; ++b, ++bit)
        out[static_cast<std::size_t>(bit / 8)] |= static_cast<std::byte>(((code >> b) & 1u) << (bit % 8));
    }
  return out;
}

Array<float, 2> AffineCodec::unpack(const std::vector<std::byte>& packed, std::int64_t n, std::int64_t head_dim) const {
  assert(static_cast<std::int64_t>(packed.size()) == stored_bytes(Part::key, n, head_dim));
  const std::int64_t code_bytes = ideal_bytes(Part::key, n, head_dim);
  Array<float, 2> out({n, head_dim});
  std::int64_t bit = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t d = 0; d < head_dim; ++d) {
      unsigned code = 0;
      for (int b = 0; b < bits_; ++b, ++bit)
        code |= ((static_cast<unsigned>(packed[static_cast<std::size_t>(bit / 8)]) >> (bit % 8)) & 1u) << b;
      std::uint16_t stored[2];
      std::memcpy(stored, packed.data() + code_bytes + group_of(i, d, head_dim) * group_bytes, sizeof stored);
      out(i, d) = from_f16(stored[0]) + static_cast<float>(code) * from_f16(stored[1]);
    }
  return out;
}

void AffineCodec::encode(Part, View<float, 2> x) const {
  const Array<float, 2> decoded = unpack(pack(x), x.extent(0), x.extent(1));
  for (std::int64_t i = 0; i < x.extent(0); ++i)
    for (std::int64_t d = 0; d < x.extent(1); ++d) x(i, d) = decoded(i, d);
}

}  // namespace kvgrind::sim
