#include "kernels/activation/activation.h"

#include <cassert>
#include <cmath>

#include "kernels/isa/isa.h"

namespace kvgrind::kernels {

void silu_mul(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out) {
  assert(gate.extents() == up.extents() && gate.extents() == out.extents());
  const KernelTable& kernels = current_kernels();
  const bool side_by_side = gate.stride(1) == 1 && up.stride(1) == 1 && out.stride(1) == 1;
  for (std::int64_t t = 0; t < gate.extent(0); ++t) {
    if (side_by_side) {
      kernels.silu_mul(gate.data() + t * gate.stride(0), up.data() + t * up.stride(0), out.data() + t * out.stride(0),
                       gate.extent(1));
    } else {
      for (std::int64_t f = 0; f < gate.extent(1); ++f) kernels.silu_mul(&gate(t, f), &up(t, f), &out(t, f), 1);
    }
  }
}

void silu_mul_ref(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out) {
  for (std::int64_t t = 0; t < gate.extent(0); ++t)
    for (std::int64_t f = 0; f < gate.extent(1); ++f) {
      const double g = static_cast<double>(gate(t, f));
      out(t, f) = static_cast<float>(g / (1.0 + std::exp(-g)) * static_cast<double>(up(t, f)));
    }
}

}  // namespace kvgrind::kernels
