// Ada-KV: the heads of a layer compete for its tokens, above a floor for each.
//   in   scores of the layer's groups, B = what the amount gives a group, H groups
//   out  every group its best f = floor(floor · B + 1e-9); the other H·(B − f) tokens go to the best scores of all
//        groups together (ties: lower head, then position). Counts sum to H·B exactly.
//   rounding=official: n_h = how many of the best H·B scores fell in head h, kept = round((1 − floor)·n_h + f), half to
//   even: the sum may differ from H·B
//   source: arXiv 2407.11550; FFY0/AdaKV snapkv_utils.py; NVIDIA/kvpress adakv_press.py
#include <algorithm>
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

struct Candidate {
  float score = 0;
  std::size_t group = 0;
};

bool better(float a, float b) {  // NaN last
  return !std::isnan(a) && (std::isnan(b) || a > b);
}

// The best `count` of all groups' scores from place `skip` of each group's own order on, counted by group.
std::vector<std::int64_t> share_out(const std::vector<BudgetGroup>& groups, const std::vector<std::int64_t>& skip,
                                    std::int64_t count) {
  std::vector<Candidate> all;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto order = kernels::rank_order(groups[g].scores);
    for (auto i = static_cast<std::size_t>(skip[g]); i < order.size(); ++i)
      all.push_back({groups[g].scores[static_cast<std::size_t>(order[i])], g});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Candidate& a, const Candidate& b) { return better(a.score, b.score); });
  std::vector<std::int64_t> out(groups.size());
  for (std::size_t i = 0; i < all.size() && static_cast<std::int64_t>(i) < count; ++i) ++out[all[i].group];
  return out;
}

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
               {"rounding",
                ParamType::word,
                "exact",
                "exact: heads sum to the layer's amount; official: as published",
                -1e300,
                1e300,
                {"exact", "official"}}},
    .needs = {},
    .scope = Scope::layer,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
