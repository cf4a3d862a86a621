// Every group keeps what the amount says. of=read: everything is stored, the amount is for what a query reads.
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const bool read = context.params.word("of") == "read";
  for (BudgetGroup& group : context.groups) group.kept = read ? group.visible : group.base;
}

}  // namespace

extern const BudgetRow uniform;
const BudgetRow uniform = {
    .name = "uniform",
    .source = "kvgrind",
    .help = "the same count for every group",
    .params = {{"of",
                ParamType::word,
                "stored",
                "what the amount counts: slots stored, or slots a query reads",
                -1e300,
                1e300,
                {"stored", "read"}}},
    .needs = {},
    .scope = Scope::group,
    .count = CountClass::exact,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
