// out = silu(gate) · up, elementwise. gate, up, out [n, F] f32; gate_up may hold both side by side.
// Relative error ≤ 1e-6; an element's bits do not depend on its place. Roofline: one exp and one division an element.
#pragma once
#include "core/view.h"

namespace kvgrind::kernels {

void silu_mul(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out);
void silu_mul_ref(View<const float, 2> gate, View<const float, 2> up, View<float, 2> out);  // in double: the oracle

}  // namespace kvgrind::kernels
