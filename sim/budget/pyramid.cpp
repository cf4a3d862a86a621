// More for lower layers, falling linearly with depth.
//   in   C = what the amount gives a layer, w = window, S = tokens, L layers; top M and bottom m with mean C − w:
//        m = (C−w)/beta, M = 2(C−w) − m; where M ≥ S − w: M = S − w, m = 2(C−w) − M
//   out  tokens of layer l, the window included
//   arithmetic=exact: w + M − l(M−m)/(L−1), cut to whole numbers so that the layers sum to L·C exactly
//   factory: integers, step floored (the sum may exceed L·C); S < C keeps all; S < 2(C−w) keeps C everywhere
//   kvpress: reals, C − w = S(1−r), window inside; unless S ≥ M ≥ m ≥ w every layer keeps round(S(1−r)); half to even
//   source: arXiv 2406.02069; Zefan-Cai/KVCache-Factory pyramidkv_utils.py; NVIDIA/kvpress pyramidkv_press.py
#include <algorithm>
#include <cmath>
#include <string>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

struct Line {
  double top = 0, bottom = 0;
};

// One layer of the model, from what all share.
struct Shape {
  std::int64_t tokens = 0, window = 0, layers = 0, base = 0;
  double base_real = 0, beta = 20;
};

Line line(double above_window, double room, double beta) {
  Line out;
  out.bottom = above_window / beta;
  out.top = 2 * above_window - out.bottom;
  if (out.top >= room) {
    out.top = room;
    out.bottom = 2 * above_window - out.top;
  }
  return out;
}

std::int64_t exact(const Shape& s, std::int64_t layer) {
  if (s.base >= s.tokens || s.base <= s.window || s.layers < 2) return s.base;
  const Line l = line(static_cast<double>(s.base - s.window), static_cast<double>(s.tokens - s.window), s.beta);
  const double step = (l.top - l.bottom) / static_cast<double>(s.layers - 1);
  // Rounded sums of the first layers differ by whole numbers and end at the total.
  const auto sum = [&](std::int64_t n) {
    const auto count = static_cast<double>(n);
    return std::floor(count * l.top - step * count * (count - 1) / 2 + 0.5);
  };
  return s.window + static_cast<std::int64_t>(sum(layer + 1) - sum(layer));
}

std::int64_t factory(const Shape& s, std::int64_t layer) {
  if (s.tokens < s.base) return s.tokens;
  const std::int64_t above = s.base - s.window;
  if (above <= 0 || s.tokens < 2 * above || s.layers < 2) return s.base;
  std::int64_t bottom = static_cast<std::int64_t>(std::floor(static_cast<double>(above) / s.beta));
  std::int64_t top = 2 * above - bottom;
  if (top >= s.tokens - s.window) {
    top = s.tokens - s.window;
    bottom = 2 * above - top;
  }
  return top - layer * ((top - bottom) / (s.layers - 1)) + s.window;
}

std::int64_t kvpress(const Shape& s, std::int64_t layer) {
  const auto tokens = static_cast<double>(s.tokens), window = static_cast<double>(s.window);
  const Line l = line(s.base_real, tokens - window, s.beta);
  if (s.layers < 2 || !(tokens >= l.top && l.top >= l.bottom && l.bottom >= window))
    return static_cast<std::int64_t>(std::nearbyint(s.base_real));
  const double step = (l.top - l.bottom) / static_cast<double>(s.layers - 1);
  return static_cast<std::int64_t>(std::nearbyint(l.top - static_cast<double>(layer) * step));
}

void allocate(const BudgetContext& context) {
  const std::string& arithmetic = context.params.word("arithmetic");
  for (BudgetGroup& group : context.groups) {
    const Shape shape{.tokens = group.tokens,
                      .window = context.params.integer("window"),
                      .layers = context.facts.card->layers,
                      .base = group.base,
                      .base_real = group.base_real,
                      .beta = context.params.number("beta")};
    group.kept = arithmetic == "exact"     ? exact(shape, group.layer)
                 : arithmetic == "factory" ? factory(shape, group.layer)
                                           : kvpress(shape, group.layer);
  }
}

}  // namespace

extern const BudgetRow pyramid;
const BudgetRow pyramid = {
    .name = "pyramid",
    .source = "arXiv 2406.02069; Zefan-Cai/KVCache-Factory pyramidkv_utils.py",
    .help = "more for lower layers, falling linearly",
    .params = {{"beta", ParamType::number, "20", "the last layer keeps about 1/beta of the mean above the window", 1,
                1e6},
               {"window", ParamType::integer, "32", "tokens that every layer keeps besides", 0, 65536},
               {"arithmetic",
                ParamType::word,
                "exact",
                "exact: layers sum to the amount; factory, kvpress: as published",
                -1e300,
                1e300,
                {"exact", "factory", "kvpress"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
