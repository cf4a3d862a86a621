// Rotary position embedding, half-split pairing: dims (m, m + r/2) rotate by position · inv_freq[m]; cos and sin are
// multiplied by attention_factor; dims from r on pass through. Angles in fp32 (position · inv_freq), as the model.
// Roofline: one read and write of x; one sine and cosine per (position, pair), shared by the heads of a call.
#pragma once
#include <cstdint>
#include <span>

#include "core/model_card.h"
#include "core/view.h"

namespace kvgrind::kernels {

// x [n, heads, D] f32 rotated in place by positions [n].
void rope_apply(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x);
// The inverse: pre-RoPE from post-RoPE (divides by attention_factor as well).
void rope_undo(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x);

// The same in double after the fp32 angle: the oracles.
void rope_apply_ref(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x);
void rope_undo_ref(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x);

}  // namespace kvgrind::kernels
