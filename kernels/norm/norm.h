// RMS norm and L2 norms. Each row by itself, in one fixed order of sums.
// Roofline: one read (and write) of x; the baseline instructions keep up with memory.
#pragma once
#include <span>

#include "core/view.h"

namespace kvgrind::kernels {

// out[t] = x[t] / sqrt(mean(x[t]²) + eps) · w;  x, out [n, H] f32 (out may be x), w [H]
void rms_norm(View<const float, 2> x, std::span<const float> w, float eps, View<float, 2> out);
// norm[t] = ‖x[t]‖₂
void l2_norms(View<const float, 2> x, std::span<float> norm);

// Plain loops, double accumulation: the oracles.
void rms_norm_ref(View<const float, 2> x, std::span<const float> w, float eps, View<float, 2> out);
void l2_norms_ref(View<const float, 2> x, std::span<float> norm);

}  // namespace kvgrind::kernels
