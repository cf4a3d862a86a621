// KVCompose: heads of a layer align their best slots by rank; layers compete with these composite slots.
//   in   scores s_g of all groups, descending: s_g(1) ≥ s_g(2) …; composite c_l(m) = mean over the layer's groups of
//        s_g(m); the first `floor` of a layer come before all others; c_0(m) = max over layers of c_l(m)
//   out  the best floor(L · S · keep + 1e-9) composites (a removed ratio: int(L·S·(1 − r))), ties: lower layer, rank;
//        n_l of them in layer l: every group of the layer keeps n_l. At least `least` a layer, from the largest.
//   source: arXiv 2509.05165; NVIDIA/kvpress kvcompose_press.py
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

using Composites = std::vector<double>;  // of one layer, descending

Composites composites_of(std::span<const BudgetGroup> groups) {
  std::size_t ranks = groups[0].scores.size();
  for (const BudgetGroup& group : groups) ranks = std::min(ranks, group.scores.size());
  Composites out(ranks);
  for (const BudgetGroup& group : groups) {
    std::vector<double> s;
    for (const float x : group.scores) s.push_back(std::isnan(x) ? -1e300 : static_cast<double>(x));
    std::sort(s.begin(), s.end(), std::greater<>());
    for (std::size_t m = 0; m < ranks; ++m) out[m] += s[m] / static_cast<double>(groups.size());
  }
  return out;
}

void allocate(const BudgetContext& context) {
  std::vector<std::size_t> first;  // group of each layer
  for (std::size_t g = 0; g < context.groups.size(); ++g)
    if (g == 0 || context.groups[g].layer != context.groups[g - 1].layer) first.push_back(g);
  first.push_back(context.groups.size());
  const std::size_t layers = first.size() - 1;
  std::vector<Composites> c;
  double tokens = 0, real = 0;
  std::int64_t base = 0;
  for (std::size_t l = 0; l < layers; ++l) {
    c.push_back(composites_of(std::span(context.groups).subspan(first[l], first[l + 1] - first[l])));
    const BudgetGroup& group = context.groups[first[l]];
    tokens += static_cast<double>(group.tokens);
    real += group.base_real;
    base += group.base;
  }
  const auto floor_count = static_cast<std::size_t>(context.params.integer("floor"));
  for (Composites& layer : c)
    for (std::size_t m = 0; m < std::min(floor_count, layer.size()); ++m) layer[m] += 1e9;
  if (context.params.boolean("lift"))
    for (std::size_t m = 0; m < c[0].size(); ++m)
      for (const Composites& layer : c)
        if (m < layer.size()) c[0][m] = std::max(c[0][m], layer[m]);

  struct Entry {
    double value = 0;
    std::size_t layer = 0;
  };
  std::vector<Entry> all;
  for (std::size_t l = 0; l < layers; ++l)
    for (const double value : c[l]) all.push_back({value, l});
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.value > b.value; });
  std::int64_t total =
      context.amount.kind == Amount::Kind::removed    ? static_cast<std::int64_t>(tokens * (1 - context.amount.value))
      : context.amount.kind == Amount::Kind::fraction ? static_cast<std::int64_t>(std::floor(real + 1e-9))
                                                      : base;
  total = std::min(total, static_cast<std::int64_t>(all.size()));
  std::vector<std::int64_t> n(layers);
  for (std::int64_t i = 0; i < total; ++i) ++n[all[static_cast<std::size_t>(i)].layer];
  const std::int64_t least = context.params.integer("least");
  for (std::size_t l = 0; l < layers; ++l)
    while (n[l] < std::min(least, static_cast<std::int64_t>(c[l].size()))) {
      const auto richest = std::max_element(n.begin(), n.end());
      if (*richest <= least) break;
      --*richest;
      ++n[l];
    }
  for (std::size_t l = 0; l < layers; ++l)
    for (std::size_t g = first[l]; g < first[l + 1]; ++g) context.groups[g].kept = n[l];
}

}  // namespace

extern const BudgetRow composite;
const BudgetRow composite = {
    .name = "composite",
    .source = "arXiv 2509.05165; NVIDIA/kvpress kvcompose_press.py",
    .help = "layers compete with slots that their heads align by rank",
    .params = {{"floor", ParamType::integer, "0", "slots of each layer that come before all others", 0, 1e9},
               {"lift", ParamType::boolean, "on", "the first layer counts as the best one, so that none is longer"},
               {"least", ParamType::integer, "1", "slots of a layer at least", 0, 1e9}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
