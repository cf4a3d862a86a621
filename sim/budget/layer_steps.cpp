// WindowKV: groups of consecutive layers share a budget that falls from group to group in equal steps.
//   in   C = what the amount gives a layer, n = layers of a group, ng = L div n groups (trailing layers join the last)
//        last = C · n / beta, first = 2C − last; ng < 2 or last > C: every layer keeps C
//   out  exact: straight from first to last, cut to whole numbers within the tokens there are, sum exactly L · C
//        official: integers, step = (first − last) div (ng − 1), the last group has `last`; S ≤ C keeps everything
//   source: optim996/WindowKV models/compress_utils.py
#include <algorithm>
#include <cmath>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::int64_t n = context.params.integer("layers"), groups = context.facts.card->layers / n;
  const double beta = context.params.number("beta");
  const bool official = context.params.word("rounding") == "official";
  std::vector<std::size_t> first_group;
  for (std::size_t g = 0; g < context.groups.size(); ++g)
    if (g == 0 || context.groups[g].layer != context.groups[g - 1].layer) first_group.push_back(g);
  std::vector<double> weight;
  std::vector<std::int64_t> low, high, kept;
  std::int64_t total = 0;
  for (const std::size_t g : first_group) {
    const BudgetGroup& group = context.groups[g];
    const std::int64_t at = std::min(group.layer / n, groups - 1), c = group.base;
    const double last = static_cast<double>(c * n) / beta;
    const bool flat = groups < 2 || last > static_cast<double>(c) || group.tokens <= c;
    const std::int64_t whole_last = static_cast<std::int64_t>(last), first = 2 * c - whole_last;
    kept.push_back(flat ? c : at == groups - 1 ? whole_last : first - at * ((first - whole_last) / (groups - 1)));
    weight.push_back(flat ? static_cast<double>(c)
                          : (2 * static_cast<double>(c) - last) - static_cast<double>(at) *
                                                                      (2 * static_cast<double>(c) - 2 * last) /
                                                                      static_cast<double>(groups - 1));
    low.push_back(0);
    high.push_back(group.visible);
    total += std::min(c, group.visible);
  }
  if (!official) kept = apportion(weight, total, low, high);
  for (std::size_t i = 0; i < first_group.size(); ++i)
    for (std::size_t g = first_group[i];
         g < context.groups.size() && context.groups[g].layer == context.groups[first_group[i]].layer; ++g)
      context.groups[g].kept = kept[i];
}

}  // namespace

extern const BudgetRow layer_steps;
const BudgetRow layer_steps = {
    .name = "layer_steps",
    .source = "optim996/WindowKV",
    .help = "groups of layers share a budget that falls in equal steps",
    .params = {{"layers", ParamType::integer, "8", "layers of a group", 1, 1e6},
               {"beta", ParamType::number, "14", "the last group's share is layers / beta", 1, 1e6},
               rounding_row("exact: layers sum to the amount; official: as published")},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
