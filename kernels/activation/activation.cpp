#include "kernels/activation/activation.h"

#include <cassert>
#include <cmath>

namespace kvgrind::kernels {

void silu_mul(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out) { silu_mul_ref(gate, up, out); }

void silu_mul_ref(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out) {
  assert(gate.extents() == up.extents() && gate.extents() == out.extents());
  for (std::int64_t t = 0; t < gate.extent(0); ++t)
    for (std::int64_t f = 0; f < gate.extent(1); ++f) {
      const double g = static_cast<double>(gate(t, f));
      out(t, f) = static_cast<float>(g / (1.0 + std::exp(-g)) * static_cast<double>(up(t, f)));
    }
}

}  // namespace kvgrind::kernels
