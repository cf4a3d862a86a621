// A small fitted head on what a token itself is, of the calibration in parameter "calib".
#pragma once
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

//   x = pre-RoPE queries and keys and the values of all heads of the layer; tensors of layer l: "w1 l" [F, H], "b1 l"
//   [H], "w2 l" [H, Hk], "b2 l" [Hk], or alone "w l" [F, Hk], "b l" [Hk] s [slots] = w2ᵀ f(w1ᵀ x + b1) + b2, or wᵀ x
//   + b, of the group's KV head; a logistic of that where number "logistic" is set. Computed once, when a token is
//   first seen, and kept by position
void learned_head_scores(const ScoreContext& context, Columns& out);

}  // namespace kvgrind::sim
