// Some layers keep everything, the others what the amount says.
//   full layers l: from · L ≤ of · l < to · L (the middle third: from=1, to=2, of=3)
//   source: arXiv 2410.01485
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::int64_t from = context.params.integer("from"), to = context.params.integer("to"),
                     of = context.params.integer("of"), layers = context.facts.card->layers;
  for (BudgetGroup& group : context.groups) {
    const std::int64_t at = of * group.layer;
    group.kept = at >= from * layers && at < to * layers ? group.visible : group.base;
  }
}

}  // namespace

extern const BudgetRow full_layers;
const BudgetRow full_layers = {
    .name = "full_layers",
    .source = "arXiv 2410.01485",
    .help = "a stretch of layers keeps everything, the others what the amount says",
    .params = {{"from", ParamType::integer, "1", "where full layers begin, in parts of the depth", 0, 1e6},
               {"to", ParamType::integer, "2", "where they end", 0, 1e6},
               {"of", ParamType::integer, "3", "parts of the depth", 1, 1e6}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
