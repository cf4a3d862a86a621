// What recomputable tokens are computed from: how many bytes that takes.
#pragma once
#include <string_view>

#include "core/model_card.h"
#include "sim/engine/plan.h"

namespace kvgrind::sim {

inline constexpr const char* checkpoint_help =
    "stored for a token to compute it again: one residual, that of every layer, or nothing (from its text)";

// "single": one residual a token for the whole model; "layers": each layer's input; "none".
inline void set_residual(GroupPlan& plan, const ModelCard& card, std::string_view checkpoint) {
  plan.residual_bytes = checkpoint == "none" ? 0 : card.hidden * size_bytes(card.dtype);
  plan.residual_once = checkpoint == "single";
}

}  // namespace kvgrind::sim
