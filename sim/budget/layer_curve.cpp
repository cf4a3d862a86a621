// PrefixKV: layers drop the shares that were fitted for the amount's level.
//   in   fitted shares kept y of each layer (sim/engine/fitted_shares.h), S tokens
//   out  every group of the layer: official: S − round((1 − y) · S), half to even; exact: whole numbers in the ratio of
//        y · S, at least 1, at most what is there, layers sum to the amount exactly. Whole amounts keep everything
//   source: arXiv 2412.03409; THU-MIG/PrefixKV prefixkv.py (confs/)
#include <algorithm>
#include <cmath>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/fitted_shares.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  auto& groups = context.groups;
  if (keeps_everything(context)) {
    for (BudgetGroup& group : groups) group.kept = group.visible;
    return;
  }
  const std::vector<double> share = fitted_shares(context, 1);
  std::vector<double> weight;
  std::vector<std::int64_t> low, high, layer;
  std::int64_t total = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto tokens = static_cast<double>(groups[g].tokens);
    groups[g].kept = groups[g].tokens - static_cast<std::int64_t>(std::nearbyint((1 - share[g]) * tokens));
    if (g > 0 && groups[g].layer == groups[g - 1].layer) continue;
    layer.push_back(groups[g].layer);
    weight.push_back(share[g] * tokens);
    low.push_back(std::min<std::int64_t>({1, groups[g].base, groups[g].visible}));
    high.push_back(groups[g].visible);
    total += std::min(groups[g].base, groups[g].visible);
  }
  if (context.params.word("rounding") == "official") return;
  const std::vector<std::int64_t> kept = apportion(weight, total, low, high);
  for (std::size_t l = 0, g = 0; g < groups.size(); ++g) {
    if (groups[g].layer != layer[l]) ++l;
    groups[g].kept = kept[l];
  }
}

}  // namespace

extern const BudgetRow layer_curve;
const BudgetRow layer_curve = {
    .name = "layer_curve",
    .source = "arXiv 2412.03409; THU-MIG/PrefixKV",
    .help = "layers keep what was fitted for them at the amount's level",
    .params =
        {rounding_row("exact: layers sum to the amount; official: each rounded by itself"),
         {"calib", ParamType::calibration, "\"\"", "what kvgrind fit prefixkv wrote", -1e300, 1e300, {"prefixkv"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
