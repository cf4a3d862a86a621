// D2O: more for layers whose attention is spread, less for those where it lies on few tokens.
//   in   of each layer the variances v of its query heads' column sums (score column_density, at the first firing),
//        F = mean over heads of (v − min v) / (max v − min v + 1e-6); ρ = what the amount gives / tokens; L layers
//   out  every group of layer l: exact: whole numbers in the ratio of softmax(−F)_l, layers sum to the amount exactly;
//        official: floor of tokens · clamp(softmax(−F)_l · L · ρ, 0.01, 1)
//        the first `first` and last `last` layers keep everything and take no part
//   source: arXiv 2406.13035; AIoT-MLSys-Lab/D2O modeling_llama3_7b_13b_d2o.py
#include <algorithm>
#include <cmath>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

double density(const std::vector<double>& variance) {
  if (variance.empty()) return 0;
  const auto [low, high] = std::minmax_element(variance.begin(), variance.end());
  double sum = 0;
  for (const double v : variance) sum += (v - *low) / (*high - *low + 1e-6);
  return sum / static_cast<double>(variance.size());
}

struct Layer {
  std::int64_t layer = 0, base = 0, tokens = 0, visible = 0;
  double density = 0;
};

std::vector<Layer> layers_of(const BudgetContext& context) {
  std::vector<Layer> out;
  std::vector<float>& held = context.memory["density"];  // by layer, −1 = not yet
  for (std::size_t begin = 0, end = 0; begin < context.groups.size(); begin = end) {
    const BudgetGroup& front = context.groups[begin];
    Layer layer{front.layer, front.base, front.tokens, front.visible, 0};
    std::vector<double> variance;
    for (end = begin; end < context.groups.size() && context.groups[end].layer == front.layer; ++end) {
      layer.visible = std::max(layer.visible, context.groups[end].visible);
      if (!context.groups[end].columns) continue;
      for (const auto& [name, value] : context.groups[end].columns->figures)
        if (name.starts_with("variance ")) variance.push_back(value);
    }
    const auto at = static_cast<std::size_t>(front.layer);
    if (held.size() <= at) held.resize(at + 1, -1.0f);
    if (held[at] < 0) held[at] = static_cast<float>(density(variance));
    layer.density = static_cast<double>(held[at]);
    out.push_back(layer);
  }
  return out;
}

void allocate(const BudgetContext& context) {
  const std::int64_t first = context.params.integer("first"), last = context.params.integer("last");
  const std::int64_t count = context.facts.card->layers;
  const bool official = context.params.word("rounding") == "official";
  std::vector<Layer> layers = layers_of(context);
  double sum = 0;
  for (const Layer& layer : layers) sum += std::exp(-layer.density);
  std::vector<double> weight;
  std::vector<std::int64_t> low, high, kept(layers.size());
  std::vector<std::size_t> shared;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const double share = std::exp(-layer.density) / sum;
    if (layer.layer < first || layer.layer >= count - last || layer.base >= layer.tokens) {
      kept[i] = layer.visible;
      continue;
    }
    if (official) {
      const double ratio = std::clamp(share * static_cast<double>(layers.size()) * static_cast<double>(layer.base) /
                                          static_cast<double>(layer.tokens),
                                      0.01, 1.0);
      kept[i] = static_cast<std::int64_t>(static_cast<double>(layer.tokens) * ratio + 1e-9);
      continue;
    }
    shared.push_back(i);
    weight.push_back(share);
    low.push_back(std::min<std::int64_t>({1, layer.base, layer.visible}));
    high.push_back(layer.visible);
    total += std::min(layer.base, layer.visible);
  }
  const std::vector<std::int64_t> parts = apportion(weight, total, low, high);
  for (std::size_t i = 0; i < shared.size(); ++i) kept[shared[i]] = parts[i];
  for (BudgetGroup& group : context.groups)
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers[i].layer == group.layer) group.kept = kept[i];
}

}  // namespace

extern const BudgetRow density_shares;
const BudgetRow density_shares = {
    .name = "density_shares",
    .source = "arXiv 2406.13035; AIoT-MLSys-Lab/D2O",
    .help = "more for layers whose attention is spread",
    .params = {{"first", ParamType::integer, "0", "first layers that keep everything", 0, 1e6},
               {"last", ParamType::integer, "0", "last layers that keep everything", 0, 1e6},
               rounding_row("exact: layers sum to the amount; official: as published")},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
    .columns = {"variance"},
};

}  // namespace kvgrind::sim::budgets
