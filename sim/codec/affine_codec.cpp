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

// Of numbers up to 2²² in size: beyond the sum's last place nothing is left, and the sum itself rounds to even.
float round_to_even(float x) {
  constexpr float shift = 12582912.0f;  // 1.5 · 2²³
  return std::abs(x) < 4194304.0f ? x + shift - shift : x;
}
}  // namespace

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

// Visits x row by row in runs of columns: run(row, first column, columns, group of the first, 1 when the next column is
// in the next group or 0 when it is in the same).
template <class Run>
void AffineCodec::for_runs(std::int64_t n, std::int64_t head_dim, Run&& run) const {
  std::int64_t group = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (axis_ == Axis::channel) {
      run(i, std::int64_t{0}, head_dim, i / group_ * head_dim, std::int64_t{1});
      continue;
    }
    for (std::int64_t d = 0; d < head_dim; d += group_, ++group)
      run(i, d, std::min(group_, head_dim - d), group, std::int64_t{0});
  }
}

// Minimum and step of every group, as fp16 holds them.
AffineCodec::Steps AffineCodec::steps_of(View<const float, 2> x) const {
  const std::int64_t n = x.extent(0), dim = x.extent(1);
  Steps out;
  out.low.assign(static_cast<std::size_t>(groups(n, dim)), std::numeric_limits<float>::infinity());
  std::vector<float> high(out.low.size(), -std::numeric_limits<float>::infinity());
  for_runs(n, dim, [&](std::int64_t i, std::int64_t first, std::int64_t count, std::int64_t group, std::int64_t next) {
    for (std::int64_t d = 0; d < count; ++d) {
      const auto g = static_cast<std::size_t>(group + d * next);
      const float value = x(i, first + d);
      out.low[g] = std::min(out.low[g], value);
      high[g] = std::max(high[g], value);
    }
  });
  out.stored.resize(2 * out.low.size());
  out.step.resize(out.low.size());
  for (std::size_t g = 0; g < out.low.size(); ++g) {
    out.stored[2 * g] = to_f16(out.low[g]);
    out.stored[2 * g + 1] = to_f16((high[g] - out.low[g]) / largest());
    out.low[g] = from_f16(out.stored[2 * g]);
    out.step[g] = from_f16(out.stored[2 * g + 1]);
  }
  return out;
}

float AffineCodec::code_of(float x, float low, float step) const {
  const float steps = step > 0 ? round_to_even((x - low) / step) : 0.0f;
  return std::clamp(steps, 0.0f, largest());
}

std::int64_t AffineCodec::ideal_bytes(Part, std::int64_t n, std::int64_t head_dim) const {
  return (n * head_dim * bits_ + 7) / 8;
}

std::int64_t AffineCodec::stored_bytes(Part part, std::int64_t n, std::int64_t head_dim) const {
  return ideal_bytes(part, n, head_dim) + group_bytes * groups(n, head_dim);
}

std::vector<std::byte> AffineCodec::pack(View<const float, 2> x) const {
  const std::int64_t n = x.extent(0), dim = x.extent(1), code_bytes = ideal_bytes(Part::key, n, dim);
  const Steps steps = steps_of(x);
  std::vector<std::byte> out(static_cast<std::size_t>(stored_bytes(Part::key, n, dim)));
  if (!steps.stored.empty())
    std::memcpy(out.data() + code_bytes, steps.stored.data(), steps.stored.size() * sizeof steps.stored[0]);
  std::int64_t bit = 0;
  for_runs(n, dim, [&](std::int64_t i, std::int64_t first, std::int64_t count, std::int64_t group, std::int64_t next) {
    for (std::int64_t d = 0; d < count; ++d) {
      const auto g = static_cast<std::size_t>(group + d * next);
      const auto code = static_cast<unsigned>(code_of(x(i, first + d), steps.low[g], steps.step[g]));
      for (int b = 0; b < bits_; ++b, ++bit)
        out[static_cast<std::size_t>(bit / 8)] |= static_cast<std::byte>(((code >> b) & 1u) << (bit % 8));
    }
  });
  return out;
}

Array<float, 2> AffineCodec::unpack(const std::vector<std::byte>& packed, std::int64_t n, std::int64_t head_dim) const {
  assert(static_cast<std::int64_t>(packed.size()) == stored_bytes(Part::key, n, head_dim));
  const std::int64_t code_bytes = ideal_bytes(Part::key, n, head_dim);
  Array<float, 2> out({n, head_dim});
  std::int64_t bit = 0;
  for_runs(n, head_dim,
           [&](std::int64_t i, std::int64_t first, std::int64_t count, std::int64_t group, std::int64_t next) {
             for (std::int64_t d = 0; d < count; ++d) {
               unsigned code = 0;
               for (int b = 0; b < bits_; ++b, ++bit)
                 code |= ((static_cast<unsigned>(packed[static_cast<std::size_t>(bit / 8)]) >> (bit % 8)) & 1u) << b;
               std::uint16_t stored[2];
               std::memcpy(stored, packed.data() + code_bytes + (group + d * next) * group_bytes, sizeof stored);
               out(i, first + d) = from_f16(stored[0]) + static_cast<float>(code) * from_f16(stored[1]);
             }
           });
  return out;
}

// What unpack(pack(x)) gives, without the bits in between.
void AffineCodec::encode(Part, View<float, 2> x) const {
  const Steps steps = steps_of(x);
  for_runs(x.extent(0), x.extent(1),
           [&](std::int64_t i, std::int64_t first, std::int64_t count, std::int64_t group, std::int64_t next) {
             for (std::int64_t d = 0; d < count; ++d) {
               const auto g = static_cast<std::size_t>(group + d * next);
               float& value = x(i, first + d);
               value = steps.low[g] + code_of(value, steps.low[g], steps.step[g]) * steps.step[g];
             }
           });
}

}  // namespace kvgrind::sim
