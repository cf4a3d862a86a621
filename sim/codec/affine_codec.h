// Plain affine codec: groups of values share a minimum and a step (both fp16), each value is a whole number of steps.
//   axis=token: groups of `group` channels within a token; axis=channel: groups of `group` tokens within a channel (the
//   last of each may be short)
//   step = (max − min)/(2^bits − 1); code = round((x − min)/step), clamped; decoded = min + code · step
//   packed form: codes as one stream of bits, row by row, low bit first; then min and step of each group
#pragma once
#include <cstddef>
#include <vector>

#include "core/array.h"
#include "sim/engine/codec.h"

namespace kvgrind::sim {

class AffineCodec final : public Codec {
 public:
  enum class Axis : std::uint8_t { token, channel };
  AffineCodec(int bits, std::int64_t group, Axis axis);

  std::string text() const override;
  void encode(Part part, View<float, 2> x) const override;
  std::int64_t stored_bytes(Part part, std::int64_t n, std::int64_t head_dim) const override;
  std::int64_t ideal_bytes(Part part, std::int64_t n, std::int64_t head_dim) const override;

  std::vector<std::byte> pack(View<const float, 2> x) const;
  Array<float, 2> unpack(const std::vector<std::byte>& packed, std::int64_t n, std::int64_t head_dim) const;

 private:
  std::int64_t groups(std::int64_t n, std::int64_t head_dim) const;
  struct Steps {
    std::vector<float> low, step;       // by group, as fp16 holds them
    std::vector<std::uint16_t> stored;  // low, step of each group
  };
  template <class Run>
  void for_runs(std::int64_t n, std::int64_t head_dim, Run&& run) const;
  Steps steps_of(View<const float, 2> x) const;
  float code_of(float x, float low, float step) const;
  float largest() const { return static_cast<float>((1 << bits_) - 1); }
  int bits_;
  std::int64_t group_;
  Axis axis_;
};

}  // namespace kvgrind::sim
