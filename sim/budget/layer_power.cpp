// EpiCache: layers get tokens by a power of how little blocks change their keys.
//   in   of = sensitivity of each layer (one entry: all alike), x = (σ − min) / (max − min), weight (1 − x)^power; C =
//        what the amount gives a layer, L layers; power 0 or equal σ: equal weights
//   out  exact: whole numbers in the ratio of the weights, at least C div 4 each, the layers sum to L · C
//        official: int(weight / Σ weights · L · C), raised to max(1, C div 4): the sum overshoots
//        heads=pair: a layer's tokens · heads go to the best scores of its heads; uniform: every head has its part
//   source: arXiv 2509.17396; apple/ml-epicache attention/kvcache.py, data/layer_scores/layer_profile.py
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/share_out.h"

namespace kvgrind::sim::budgets {
namespace {

std::vector<double> weights_of(const BudgetContext& context, std::size_t layers) {
  std::vector<double> sigma = context.params.numbers("of");
  if (sigma.size() == 1) sigma.assign(static_cast<std::size_t>(context.facts.card->layers), sigma[0]);
  if (sigma.size() != layers)
    throw Error(Category::usage, {.doing = "running budget layer_power",
                                  .found = fmt::format("{} sensitivities", sigma.size()),
                                  .expected = fmt::format("{} (one a layer) or one for all", layers)});
  const auto [low, high] = std::minmax_element(sigma.begin(), sigma.end());
  const double least = *low, range = *high - *low, power = context.params.number("power");
  for (double& x : sigma) x = range > 0 ? std::pow(1 - (x - least) / range, power) : 1;
  return sigma;
}

void allocate(const BudgetContext& context) {
  std::vector<std::size_t> first;  // group of each layer
  for (std::size_t g = 0; g < context.groups.size(); ++g)
    if (g == 0 || context.groups[g].layer != context.groups[g - 1].layer) first.push_back(g);
  const std::size_t layers = first.size();
  first.push_back(context.groups.size());
  const std::vector<double> weight = weights_of(context, layers);
  std::int64_t total = 0;
  std::vector<std::int64_t> least, most;
  for (std::size_t l = 0; l < layers; ++l) {
    const BudgetGroup& group = context.groups[first[l]];
    const std::int64_t c = std::min(group.base, group.visible);
    total += c;
    least.push_back(std::min(group.visible, std::max<std::int64_t>(1, c / 4)));
    most.push_back(group.visible);
  }
  std::vector<std::int64_t> kept;
  if (total >= std::accumulate(most.begin(), most.end(), std::int64_t{0})) {
    kept = most;
  } else if (context.params.word("rounding") == "official") {
    double sum = 0;
    for (const double w : weight) sum += w;
    for (std::size_t l = 0; l < layers; ++l)
      kept.push_back(
          std::clamp(static_cast<std::int64_t>(weight[l] / sum * static_cast<double>(total)), least[l], most[l]));
  } else {
    kept = apportion(weight, total, least, most);
  }
  const bool pair = context.params.word("heads") == "pair";
  for (std::size_t l = 0; l < layers; ++l) {
    std::vector<BudgetGroup> groups(context.groups.begin() + static_cast<std::ptrdiff_t>(first[l]),
                                    context.groups.begin() + static_cast<std::ptrdiff_t>(first[l + 1]));
    const auto heads = static_cast<std::int64_t>(groups.size());
    const auto shared = pair ? share_out(groups, std::vector<std::int64_t>(groups.size(), 0), kept[l] * heads)
                             : std::vector<std::int64_t>(groups.size(), kept[l]);
    for (std::size_t g = 0; g < groups.size(); ++g) context.groups[first[l] + g].kept = shared[g];
  }
}

}  // namespace

extern const BudgetRow layer_power;
const BudgetRow layer_power = {
    .name = "layer_power",
    .source = "arXiv 2509.17396; apple/ml-epicache",
    .help = "layers by a power of given sensitivities, at least a quarter of their equal part",
    .params = {{"of", ParamType::list, "[0]", "sensitivity of each layer, or one for all"},
               {"power", ParamType::number, "2", "0 = all layers equal", 0, 100},
               {"heads",
                ParamType::word,
                "pair",
                "pair: heads of a layer compete; uniform: every head has its part",
                -1e300,
                1e300,
                {"pair", "uniform"}},
               rounding_row("exact: layers sum to the amount; official: as published")},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
