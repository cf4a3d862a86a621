// Mixture-of-Recursions by arithmetic: layers in N equal stretches stand for N passes of one block; pass r stores the
// tokens that are still active.
//   out  every group of pass r = 0 … N − 1: max(1, floor(S · (N − r) / N)); the amount is not used
//   source: arXiv 2507.10524 (capacities that fall linearly)
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::int64_t n = context.params.integer("n"), layers = context.facts.card->layers;
  for (BudgetGroup& group : context.groups) {
    const std::int64_t pass = group.layer * n / layers;
    group.kept = std::max<std::int64_t>(1, group.tokens * (n - pass) / n);
  }
}

}  // namespace

extern const BudgetRow recursions;
const BudgetRow recursions = {
    .name = "recursions",
    .source = "arXiv 2507.10524",
    .help = "stretches of layers keep linearly falling shares, whatever the amount",
    .params = {{"n", ParamType::integer, "3", "recursions; 1 keeps everything", 1, 1e6}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::fixed,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
