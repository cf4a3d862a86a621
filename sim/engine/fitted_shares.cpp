#include "sim/engine/fitted_shares.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::sim {

bool keeps_everything(const BudgetContext& context) {
  return std::all_of(context.groups.begin(), context.groups.end(),
                     [](const BudgetGroup& group) { return group.base >= group.tokens; });
}

std::vector<double> fitted_shares(const BudgetContext& context, std::int64_t width) {
  const ModelCard& card = *context.facts.card;
  const auto& table = context.params.calibration("calib").tensor("prune", {fitted_levels, card.layers, width});
  double given = 0, tokens = 0;
  std::int64_t heads = 1;
  for (const BudgetGroup& group : context.groups) {
    given += group.base_real;
    tokens += static_cast<double>(group.tokens);
    heads = std::max(heads, group.group + 1);
  }
  const double removed = tokens > 0 ? 1 - given / tokens : 0;
  const std::int64_t row =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(std::nearbyint(100 * removed)) - 1, 0, fitted_levels - 1);
  std::vector<double> out;
  for (const BudgetGroup& group : context.groups) {
    const std::int64_t at = (row * card.layers + group.layer) * width + group.group * width / heads;
    out.push_back(1 - std::clamp(static_cast<double>(table.values[static_cast<std::size_t>(at)]), 0.0, 1.0));
  }
  return out;
}

}  // namespace kvgrind::sim
