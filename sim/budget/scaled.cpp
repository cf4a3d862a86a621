// A multiple of the amount is stored, because reading chooses the amount among it.
//   out  floor(factor · B), at most what is there
//   source: arXiv 2504.00970 (semantic factor)
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const double factor = context.params.number("factor");
  for (BudgetGroup& group : context.groups)
    group.kept =
        std::min(group.visible, static_cast<std::int64_t>(std::floor(factor * static_cast<double>(group.base) + 1e-9)));
}

}  // namespace

extern const BudgetRow scaled;
const BudgetRow scaled = {
    .name = "scaled",
    .source = "arXiv 2504.00970",
    .help = "a multiple of the amount is stored; reading chooses the amount among it",
    .params = {{"factor", ParamType::number, "5", "stored tokens for each token of the amount", 1, 1e6}},
    .needs = {},
    .scope = Scope::group,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
