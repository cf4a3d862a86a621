// LU-KV: heads keep what loses least future attention, as fitted for the amount's level.
//   in   fitted shares kept y of each (layer, KV head) (sim/engine/fitted_shares.h), S tokens of a group, x = y · S
//   out  exact: whole numbers in the ratio of x, at least 1, at most what is there, groups sum to the amount exactly
//        kvpress: each layer N = clamp(round(Σ x), H, H·S): floor(x), one more for the largest remainders, cut to
//        [1, S]; round = half to even. Whole amounts keep everything
//   source: arXiv 2602.08585; NVIDIA/kvpress lukv_press.py
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/apportion.h"
#include "sim/engine/fitted_shares.h"

namespace kvgrind::sim::budgets {
namespace {

// The port's counts of one layer.
std::vector<std::int64_t> by_remainder(const std::vector<double>& x, std::int64_t tokens) {
  const auto heads = static_cast<std::int64_t>(x.size());
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  std::int64_t rest = std::clamp(static_cast<std::int64_t>(std::nearbyint(sum)), heads, heads * tokens);
  std::vector<std::int64_t> out;
  for (const double share : x) rest -= out.emplace_back(static_cast<std::int64_t>(std::floor(share)));
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return x[a] - std::floor(x[a]) > x[b] - std::floor(x[b]); });
  for (std::size_t i = 0; i < order.size() && static_cast<std::int64_t>(i) < rest; ++i) ++out[order[i]];
  for (std::int64_t& kept : out) kept = std::clamp<std::int64_t>(kept, 1, tokens);
  return out;
}

void allocate(const BudgetContext& context) {
  auto& groups = context.groups;
  if (keeps_everything(context)) {
    for (BudgetGroup& group : groups) group.kept = group.visible;
    return;
  }
  std::vector<double> x = fitted_shares(context, context.facts.card->kv_heads);
  for (std::size_t g = 0; g < groups.size(); ++g) x[g] *= static_cast<double>(groups[g].tokens);
  if (context.params.word("rounding") == "kvpress") {
    for (std::size_t begin = 0, end = 0; begin < groups.size(); begin = end) {
      while (end < groups.size() && groups[end].layer == groups[begin].layer) ++end;
      const std::vector<std::int64_t> kept =
          by_remainder({x.begin() + static_cast<std::ptrdiff_t>(begin), x.begin() + static_cast<std::ptrdiff_t>(end)},
                       groups[begin].tokens);
      for (std::size_t g = begin; g < end; ++g) groups[g].kept = kept[g - begin];
    }
    return;
  }
  std::vector<std::int64_t> low, high;
  std::int64_t total = 0;
  for (const BudgetGroup& group : groups) {
    low.push_back(std::min<std::int64_t>({1, group.base, group.visible}));
    high.push_back(group.visible);
    total += std::min(group.base, group.visible);
  }
  const std::vector<std::int64_t> kept = apportion(x, total, low, high);
  for (std::size_t g = 0; g < groups.size(); ++g) groups[g].kept = kept[g];
}

}  // namespace

extern const BudgetRow head_curve;
const BudgetRow head_curve = {
    .name = "head_curve",
    .source = "arXiv 2602.08585; NVIDIA/kvpress lukv_press.py",
    .help = "heads keep what was fitted for them at the amount's level",
    .params = {{"rounding",
                ParamType::word,
                "exact",
                "exact: groups sum to the amount; kvpress: layers, as published",
                -1e300,
                1e300,
                {"exact", "kvpress"}},
               {"calib", ParamType::calibration, "\"\"", "what kvgrind fit lukv wrote", -1e300, 1e300, {"lukv"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
