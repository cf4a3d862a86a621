// Ada-KV: the heads of a layer compete for its tokens, above a floor for each.
//   in   scores of the layer's groups, B = what the amount gives a group, H groups
//   out  every group its best f = floor(floor · B + 1e-9); the other H·(B − f) tokens go to the best scores of all
//        groups together (ties: lower head, then position). Counts sum to H·B exactly.
//   rounding=official: n_h = how many of the best H·B scores fell in head h, kept = round((1 − floor)·n_h + f), half to
//   even: the sum may differ from H·B
//   source: arXiv 2407.11550; FFY0/AdaKV snapkv_utils.py; NVIDIA/kvpress adakv_press.py
#include <algorithm>
#include <cmath>

#include "sim/budget/rounding.h"
#include "sim/engine/share_out.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const double floor_share = context.params.number("floor");
  const bool official = context.params.word("rounding") == "official";
  std::vector<std::int64_t> floors;
  std::int64_t total = 0;
  for (const BudgetGroup& group : context.groups) {
    floors.push_back(std::min(
        group.visible, static_cast<std::int64_t>(std::floor(floor_share * static_cast<double>(group.base) + 1e-9))));
    total += std::min(group.base, group.visible);
  }
  if (official) {
    const auto n = share_out(context.groups, std::vector<std::int64_t>(context.groups.size(), 0), total);
    for (std::size_t g = 0; g < n.size(); ++g)
      context.groups[g].kept = static_cast<std::int64_t>(
          std::nearbyint((1 - floor_share) * static_cast<double>(n[g]) + static_cast<double>(floors[g])));
    return;
  }
  for (const std::int64_t f : floors) total -= f;
  const auto more = share_out(context.groups, floors, total);
  for (std::size_t g = 0; g < more.size(); ++g) context.groups[g].kept = floors[g] + more[g];
}

}  // namespace

extern const BudgetRow cross_head;
const BudgetRow cross_head = {
    .name = "cross_head",
    .source = "arXiv 2407.11550; FFY0/AdaKV; NVIDIA/kvpress adakv_press.py",
    .help = "heads of a layer compete for its tokens, above a floor",
    .params = {{"floor", ParamType::number, "0.2", "share of a head's equal part that is its own", 0, 1},
               rounding_row("exact: heads sum to the layer's amount; official: as published")},
    .needs = {},
    .scope = Scope::layer,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
