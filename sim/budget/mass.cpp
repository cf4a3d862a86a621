// One level of cumulated score for all groups: every group keeps as many of its best slots as hold that share.
//   in   scores of all groups (negative and NaN as 0, +∞ before all others), normalised to sum 1 in each group
//   out  p = 0: the level at which the groups together keep exactly what the amount says: slot k of a group's own order
//        enters at the mass of those before it; the lowest entries of all groups are taken (ties: lower layer, head)
//        p > 0: each group the fewest slots whose mass reaches p; the amount is not used
//        unit=layer: heads of a layer hold one number (that of its first head), the sum may fall short of the amount
//        hold=on: the first firing's numbers stay in proportion, later amounts are shared by them
//   source: arXiv 2412.03409; THU-MIG/PrefixKV prefixkv.py
//   deviations: solved exactly where published code bisects to within 5 tokens and rescales
#include <algorithm>
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

// Mass before each slot of the group's own order: the level at which it enters.
std::vector<double> entries(std::span<const float> scores) {
  const auto value = [&](std::int32_t j) {
    const float s = scores[static_cast<std::size_t>(j)];
    return std::isfinite(s) ? std::max(0.0, static_cast<double>(s)) : 0.0;
  };
  double total = 0;
  for (std::size_t j = 0; j < scores.size(); ++j) total += value(static_cast<std::int32_t>(j));
  std::vector<double> out;
  double before = 0;
  for (const std::int32_t j : kernels::rank_order(scores)) {
    out.push_back(before);
    before += total > 0 ? value(j) / total : 1.0 / static_cast<double>(scores.size());
  }
  return out;
}

struct Entry {
  double level = 0;
  std::size_t unit = 0;
};

// What the amount gives the units' first groups, in the ratio of earlier counts.
void share_as_before(const BudgetContext& context, const std::vector<std::size_t>& unit,
                     const std::vector<float>& held) {
  std::vector<std::int64_t> low(unit.size(), 0), high;
  std::int64_t total = 0;
  for (const std::size_t first : unit) {
    high.push_back(context.groups[first].visible);
    total += std::min(context.groups[first].base, context.groups[first].visible);
  }
  const std::vector<double> weight(held.begin(), held.end());
  const std::vector<std::int64_t> kept = apportion(weight, total, low, high);
  for (std::size_t u = 0, g = 0; g < context.groups.size(); ++g) {
    if (u + 1 < unit.size() && g == unit[u + 1]) ++u;
    context.groups[g].kept = kept[u];
  }
}

void allocate(const BudgetContext& context) {
  const double p = context.params.number("p");
  std::vector<std::vector<double>> level;
  for (const BudgetGroup& group : context.groups) level.push_back(entries(group.scores));
  if (p > 0) {
    for (std::size_t g = 0; g < level.size(); ++g)
      context.groups[g].kept = std::lower_bound(level[g].begin(), level[g].end(), p - 1e-9) - level[g].begin();
    return;
  }
  const bool layers = context.params.word("unit") == "layer";
  std::vector<std::size_t> unit;  // first group of each
  std::int64_t total = 0;
  for (std::size_t g = 0; g < context.groups.size(); ++g) {
    total += std::min(context.groups[g].base, context.groups[g].visible);
    if (!layers || g == 0 || context.groups[g].layer != context.groups[g - 1].layer) unit.push_back(g);
  }
  const auto end_of = [&](std::size_t u) { return u + 1 < unit.size() ? unit[u + 1] : context.groups.size(); };
  std::vector<float>& held = context.memory["mass"];  // by unit
  if (context.params.boolean("hold") && held.size() == unit.size()) {
    share_as_before(context, unit, held);
    return;
  }
  std::vector<Entry> all;
  for (std::size_t u = 0; u < unit.size(); ++u)
    for (const double l : level[unit[u]]) all.push_back({l, u});
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.level < b.level; });
  std::vector<std::int64_t> kept(unit.size());
  for (const Entry& entry : all) {
    const auto cost = static_cast<std::int64_t>(end_of(entry.unit) - unit[entry.unit]);
    if (cost > total) break;
    total -= cost;
    ++kept[entry.unit];
  }
  for (std::size_t u = 0; u < unit.size(); ++u)
    for (std::size_t g = unit[u]; g < end_of(u); ++g) context.groups[g].kept = kept[u];
  if (context.params.boolean("hold")) held.assign(kept.begin(), kept.end());
}

}  // namespace

extern const BudgetRow mass;
const BudgetRow mass = {
    .name = "mass",
    .source = "arXiv 2412.03409; THU-MIG/PrefixKV",
    .help = "as many slots as hold one share of a group's score, the same for all",
    .params = {{"p", ParamType::number, "0", "share of the score; 0 = the one that meets the amount", 0, 1},
               {"unit", ParamType::word, "group", "what has a number of its own", -1e300, 1e300, {"group", "layer"}},
               {"hold", ParamType::boolean, "off", "later firings share as the first did"}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
