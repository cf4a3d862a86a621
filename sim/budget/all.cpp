// Everything stays.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  for (BudgetGroup& group : context.groups) group.kept = group.visible;
}

}  // namespace

extern const BudgetRow all;
const BudgetRow all = {
    .name = "all",
    .source = "kvgrind",
    .help = "everything stays; the amount is not used",
    .params = {},
    .needs = {},
    .scope = Scope::group,
    .count = CountClass::fixed,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
