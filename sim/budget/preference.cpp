// CAKE: layers whose attention is dispersed and shifting get more. With schedule=each_layer it is shared anew whenever
// a layer is done, so that the sum over the layers so far never exceeds their amount.
//   in   of each layer entropy H and shift V (score shifting_attention), C = what the amount gives, w = window, S
//   tokens out  w + B_l, B_l in the ratio of P_l = H^(1/tau1) · V^(1/tau2), 0 ≤ B_l ≤ S − w, Σ B_l = layers · (C − w)
//        rounding=exact: what is beyond a bound is shared by preference, whole numbers by the largest remainder
//        official: truncated, cut at S − w, the excess spread equally over uncut layers (one more for the first ones);
//        nothing is dropped unless S > C + w. C ≤ w: every layer keeps C
//   source: arXiv 2503.12491; antgroup/cakekv cake/cake_cache.py
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/budget/rounding.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

double figure(const BudgetGroup& group, const char* name) {
  const auto at = group.columns->figures.find(name);
  return at == group.columns->figures.end() ? 0.0 : at->second;
}

std::vector<std::int64_t> official(const std::vector<double>& weight, std::int64_t total, std::int64_t cap) {
  const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  std::vector<std::int64_t> out;
  for (const double w : weight)
    out.push_back(static_cast<std::int64_t>(
        (sum > 0 ? w / sum : 1.0 / static_cast<double>(weight.size())) * static_cast<double>(total) + 1e-9));
  while (true) {
    std::int64_t excess = total - std::accumulate(out.begin(), out.end(), std::int64_t{0});
    for (std::int64_t& b : out) {
      excess += std::max<std::int64_t>(0, b - cap);
      b = std::min(b, cap);
    }
    const auto open = std::count_if(out.begin(), out.end(), [&](std::int64_t b) { return b < cap; });
    if (excess <= 0 || open == 0) return out;
    std::int64_t more = excess % open;
    for (std::int64_t& b : out)
      if (b < cap) b += excess / open + (more-- > 0 ? 1 : 0);
  }
}

void allocate(const BudgetContext& context) {
  const std::int64_t window = context.params.integer("window");
  const double tau1 = context.params.number("tau1"), tau2 = context.params.number("tau2");
  std::vector<std::size_t> first;  // of each layer, its first group
  for (std::size_t g = 0; g < context.groups.size(); ++g)
    if (g == 0 || context.groups[g].layer != context.groups[g - 1].layer) first.push_back(g);
  std::vector<double> weight;
  std::vector<std::int64_t> low, high;
  std::int64_t total = 0, cap = 0;
  bool whole = true, small = false;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const std::size_t end = i + 1 < first.size() ? first[i + 1] : context.groups.size();
    double entropy = 0, shift = 0;
    std::int64_t tokens = context.groups[first[i]].tokens;
    const std::int64_t base = std::min(context.groups[first[i]].base, tokens);
    for (std::size_t g = first[i]; g < end; ++g) {
      entropy += figure(context.groups[g], "entropy");
      shift += figure(context.groups[g], "shift");
    }
    const double p = std::pow(std::max(entropy, 0.0), 1 / tau1) * std::pow(std::max(shift, 0.0), 1 / tau2);
    weight.push_back(std::isfinite(p) ? p : 0.0);
    low.push_back(0);
    // What an earlier layer gave up does not come back: its part goes to the others.
    high.push_back(std::max<std::int64_t>(0, std::min(tokens, context.groups[first[i]].visible) - window));
    cap = std::max(cap, tokens - window);
    total += base - window;
    whole = whole && tokens <= base + (context.params.word("rounding") == "official" ? window : 0);
    small = small || base <= window;
  }
  if (whole || small) {
    for (BudgetGroup& group : context.groups) group.kept = whole ? group.visible : group.base;
    return;
  }
  const std::vector<std::int64_t> above = context.params.word("rounding") == "official"
                                              ? official(weight, total, cap)
                                              : apportion(weight, total, low, high);
  for (std::size_t i = 0; i < first.size(); ++i)
    for (std::size_t g = first[i]; g < (i + 1 < first.size() ? first[i + 1] : context.groups.size()); ++g)
      context.groups[g].kept = above[i] + window;
}

}  // namespace

extern const BudgetRow preference;
const BudgetRow preference = {
    .name = "preference",
    .source = "arXiv 2503.12491; antgroup/cakekv",
    .help = "more for layers whose attention is dispersed and shifting",
    .params = {{"window", ParamType::integer, "32", "the score's window, which every layer keeps", 0, 65536},
               {"tau1", ParamType::number, "1", "the entropy counts by the power 1/tau1", 1e-3, 1e6},
               {"tau2", ParamType::number, "1", "the shift counts by the power 1/tau2", 1e-3, 1e6},
               rounding_row("exact: excess is shared by preference; official: as published")},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
    .columns = {"entropy", "shift"},
};

}  // namespace kvgrind::sim::budgets
