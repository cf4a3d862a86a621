// CompressKV: more for layers whose output suffers most when tokens leave.
//   in   tensor "layer" [L] of a calibration (importance ≥ 0, in any scale); C = what the amount gives a layer
//   out  least + (Σ C − L · least) · importance / Σ importance, within [least, most · C] and what is there
//        exact: whole numbers by the largest remainder, layers sum to the amount exactly
//        official: rounded half to even and cut, then ±1 in order of importance, more for the highest and less from the
//        lowest first, until the sum is right or nothing moves
//   source: arXiv 2508.02401; TUDa-HWAI/CompressKV pred_compresskv.py
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

struct Bounds {
  std::vector<std::int64_t> low, high;
};

std::vector<std::int64_t> official(const std::vector<double>& weight, std::int64_t total, const Bounds& bounds) {
  const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  const auto spare =
      static_cast<double>(total - std::accumulate(bounds.low.begin(), bounds.low.end(), std::int64_t{0}));
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < weight.size(); ++i) {
    const double share = sum > 0 ? weight[i] / sum : 1 / static_cast<double>(weight.size());
    out.push_back(std::clamp(bounds.low[i] + static_cast<std::int64_t>(std::nearbyint(share * spare)), bounds.low[i],
                             bounds.high[i]));
  }
  std::vector<std::size_t> order(weight.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weight[a] > weight[b]; });
  std::int64_t left = total - std::accumulate(out.begin(), out.end(), std::int64_t{0});
  if (left < 0) std::reverse(order.begin(), order.end());
  for (bool moved = true; left != 0 && moved;) {
    moved = false;
    for (const std::size_t i : order) {
      if (left == 0) break;
      const std::int64_t step = left > 0 ? 1 : -1;
      if (out[i] + step < bounds.low[i] || out[i] + step > bounds.high[i]) continue;
      out[i] += step;
      left -= step;
      moved = true;
    }
  }
  return out;
}

void allocate(const BudgetContext& context) {
  auto& groups = context.groups;
  const ModelCard& card = *context.facts.card;
  const auto& table = context.params.calibration("calib").tensor("layer", {card.layers});
  const std::int64_t least = context.params.integer("least");
  const double most = context.params.number("most");
  std::vector<double> weight;
  std::vector<std::size_t> first;
  Bounds bounds;
  std::int64_t total = 0;
  bool whole = true;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    whole = whole && groups[g].base >= groups[g].tokens;
    groups[g].kept = groups[g].visible;
    if (g > 0 && groups[g].layer == groups[g - 1].layer) continue;
    const std::int64_t base = std::min(groups[g].base, groups[g].visible);
    first.push_back(g);
    weight.push_back(std::max(0.0, static_cast<double>(table.values[static_cast<std::size_t>(groups[g].layer)])));
    bounds.low.push_back(std::min(least, base));
    bounds.high.push_back(
        std::clamp(static_cast<std::int64_t>(most * static_cast<double>(groups[g].base)), base, groups[g].visible));
    total += base;
  }
  if (whole) return;
  std::vector<std::int64_t> kept;
  if (context.params.word("rounding") == "official") {
    kept = official(weight, total, bounds);
  } else {
    std::vector<std::int64_t> zero(first.size(), 0), room;
    for (std::size_t l = 0; l < first.size(); ++l) {
      room.push_back(bounds.high[l] - bounds.low[l]);
      total -= bounds.low[l];
    }
    kept = apportion(weight, total, zero, room);
    for (std::size_t l = 0; l < first.size(); ++l) kept[l] += bounds.low[l];
  }
  for (std::size_t l = 0, g = 0; g < groups.size(); ++g) {
    if (l + 1 < first.size() && g == first[l + 1]) ++l;
    groups[g].kept = kept[l];
  }
}

}  // namespace

extern const BudgetRow layer_importance;
const BudgetRow layer_importance = {
    .name = "layer_importance",
    .source = "arXiv 2508.02401; TUDa-HWAI/CompressKV",
    .help = "more for layers whose output suffers most when tokens leave",
    .params =
        {{"least", ParamType::integer, "32", "tokens that every layer has", 0, 1e9},
         {"most", ParamType::number, "3", "times the equal part that a layer may have", 1, 1e6},
         rounding_row("exact: by the largest remainder; official: as published"),
         {"calib", ParamType::calibration, "\"\"", "what kvgrind fit compresskv wrote", -1e300, 1e300, {"compresskv"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
