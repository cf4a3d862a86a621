// A codec: what act=code stores. encode is fake-quantisation (values as they decode); bytes is the exact size of the
// packed form, scales and indices included.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "core/view.h"

namespace kvgrind::sim {

enum class Part : std::uint8_t { key, value };

class Codec {
 public:
  virtual ~Codec() = default;
  virtual std::string text() const = 0;  // canonical call, e.g. code(bits=4,…)
  // x [n, D]: the rows of one group and part that are coded together (post-RoPE keys, or values); replaced in place
  // by what decoding gives back.
  virtual void encode(Part part, View<float, 2> x) const = 0;
  // Stored bytes of n tokens of one group and part: codes + scales + offsets; ideal = the codes alone.
  virtual std::int64_t stored_bytes(Part part, std::int64_t n, std::int64_t head_dim) const = 0;
  virtual std::int64_t ideal_bytes(Part part, std::int64_t n, std::int64_t head_dim) const = 0;
};

}  // namespace kvgrind::sim
