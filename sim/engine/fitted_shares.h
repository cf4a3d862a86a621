// Shares kept that were fitted for each percent of the model that is dropped.
#pragma once
#include <cstdint>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

inline constexpr std::int64_t fitted_levels = 99;  // 1 … 99 % dropped

// Whether the amount is at least everything.
bool keeps_everything(const BudgetContext& context);
// 1 − entry of every group in tensor "prune" [99, L, width] of parameter "calib", at row clamp(round(100 r) − 1, 0,
// 98), r = 1 − what the amount gives all groups / their tokens (round: half to even). width: KV heads (each group its
// own) or 1 (each layer one).
std::vector<double> fitted_shares(const BudgetContext& context, std::int64_t width);

}  // namespace kvgrind::sim
