// UNComp: heads that carry more information get twice the tokens of the others; layers may be grouped in stages.
//   in   tensors "head" [L, Hq] (place of a head among its layer's by matrix entropy, 0 … 1) and "layer" [L] (entropy
//        of a layer) of a calibration; C = what the amount gives a layer, H cache heads
//   heads of a layer by their entropy (mean over the query heads they serve; ties: the later is higher): the upper
//        H div 2 are the upper class
//   stages=on: layers are cut where the entropy falls by more than `fall`; every layer of a stage has the stage's mean
//   of
//        a straight line from 3C/2 (first layer) to C/2 (last), in place of C
//   out  exact: upper to lower class 2 : 1, whole numbers by the largest remainder, at least 1, the model sums to the
//        amount exactly; official: C' = 3C div 2, upper C', lower C' div 2 (C = 86: 112 and 16)
//   source: arXiv 2410.03090; menik1126/UNComp uncomp_utils.py, stage_division.py
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

// A layer's share of the amount, in multiples of C.
std::vector<double> stage_shares(const CalibrationTensor& entropy, double fall) {
  const std::size_t layers = entropy.values.size();
  std::vector<double> out(layers, 1.0);
  for (std::size_t begin = 0, end = 0; begin < layers; begin = end) {
    double sum = 0;
    for (end = begin; end < layers; ++end) {
      if (end > begin && entropy.values[end] - entropy.values[end - 1] < -fall) break;
      sum += layers > 1 ? 1.5 - static_cast<double>(end) / static_cast<double>(layers - 1) : 1.0;
    }
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(begin), out.begin() + static_cast<std::ptrdiff_t>(end),
              sum / static_cast<double>(end - begin));
  }
  return out;
}

// Which cache heads of a layer are in the upper class.
std::vector<char> upper(const float* head, std::int64_t query_heads, std::int64_t heads) {
  const std::int64_t each = query_heads / heads;
  std::vector<double> mean(static_cast<std::size_t>(heads));
  for (std::int64_t h = 0; h < query_heads; ++h)
    mean[static_cast<std::size_t>(h / each)] += static_cast<double>(head[h]) / static_cast<double>(each);
  std::vector<std::size_t> order(mean.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return mean[a] < mean[b]; });
  std::vector<char> out(mean.size());
  for (std::size_t i = order.size() - order.size() / 2; i < order.size(); ++i) out[order[i]] = 1;
  return out;
}

void allocate(const BudgetContext& context) {
  auto& groups = context.groups;
  const ModelCard& card = *context.facts.card;
  const Calibration& fitted = context.params.calibration("calib");
  const auto& table = fitted.tensor("head", {card.layers, card.query_heads});
  const auto& entropy = fitted.tensor("layer", {card.layers});
  const std::vector<double> stage = context.params.boolean("stages")
                                        ? stage_shares(entropy, context.params.number("fall"))
                                        : std::vector<double>(entropy.values.size(), 1.0);
  const bool official = context.params.word("rounding") == "official";
  std::vector<double> weight;
  std::vector<std::int64_t> low, high;
  std::int64_t total = 0;
  bool whole = true;
  for (std::size_t begin = 0, end = 0; begin < groups.size(); begin = end) {
    while (end < groups.size() && groups[end].layer == groups[begin].layer) ++end;
    const std::int64_t layer = groups[begin].layer, heads = static_cast<std::int64_t>(end - begin);
    const std::vector<char> above = upper(table.values.data() + layer * card.query_heads, card.query_heads, heads);
    const double share = stage[static_cast<std::size_t>(layer)];
    for (std::size_t g = begin; g < end; ++g) {
      const BudgetGroup& group = groups[g];
      const bool top = above[g - begin] != 0;
      whole = whole && group.base >= group.tokens;
      if (official) {
        const auto c = static_cast<std::int64_t>(share * static_cast<double>(group.base) + 1e-9);
        const std::int64_t wide = c == 86 ? 112 : 3 * c / 2, narrow = c == 86 ? 16 : wide / 2;
        groups[g].kept = heads < 2 ? c : std::max<std::int64_t>(1, top ? wide : narrow);
        continue;
      }
      const auto classes = static_cast<double>(heads + heads / 2);
      weight.push_back(share * static_cast<double>(group.base) * static_cast<double>(heads) * (top ? 2 : 1) / classes);
      low.push_back(std::min<std::int64_t>({1, group.base, group.visible}));
      high.push_back(group.visible);
      total += std::min(group.base, group.visible);
    }
  }
  if (whole) {
    for (BudgetGroup& group : groups) group.kept = group.visible;
  } else if (!official) {
    const std::vector<std::int64_t> kept = apportion(weight, total, low, high);
    for (std::size_t g = 0; g < groups.size(); ++g) groups[g].kept = kept[g];
  }
}

}  // namespace

extern const BudgetRow entropy_classes;
const BudgetRow entropy_classes = {
    .name = "entropy_classes",
    .source = "arXiv 2410.03090; menik1126/UNComp",
    .help = "heads that carry more information get twice the tokens of the others",
    .params = {{"stages", ParamType::boolean, "off", "layers grouped where their entropy falls, less for later ones"},
               {"fall", ParamType::number, "1", "of the entropy (in percent) at which a stage ends", 0, 1e6},
               rounding_row("exact: the model sums to the amount; official: as published"),
               {"calib", ParamType::calibration, "\"\"", "what kvgrind fit uncomp wrote", -1e300, 1e300, {"uncomp"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
