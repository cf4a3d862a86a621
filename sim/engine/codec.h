// A codec: what act=code stores. encode is fake-quantisation (values as they decode); bytes is the exact size of the
// packed form, scales and indices included.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "core/view.h"
#include "sim/engine/slots.h"

namespace kvgrind::sim {

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
  // Shared state (bases, codebooks) of a part and what one copy of it serves; charged once for each unit that has a
  // coded token.
  enum class Unit : std::uint8_t { group, layer, model };
  virtual Unit unit() const { return Unit::group; }
  virtual std::int64_t shared_bytes(Part, std::int64_t head_dim) const {
    (void)head_dim;
    return 0;
  }
};

}  // namespace kvgrind::sim
