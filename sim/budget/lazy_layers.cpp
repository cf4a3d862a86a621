// Layers whose newest queries look at sinks and recent tokens alone keep only those; the others keep everything.
//   lazy iff the mean over the layer of the score's figure `mass` > threshold and there are more than
//   sinks + recent + last slots; a lazy layer keeps sinks + recent − last. The amount is not used.
//   source: arXiv 2410.13846; NVIDIA/kvpress simlayerkv_press.py
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::int64_t sinks = context.params.integer("sinks"), recent = context.params.integer("recent"),
                     last = context.params.integer("last");
  double mass = 0;
  for (const BudgetGroup& group : context.groups)
    if (const auto it = group.columns->figures.find("mass"); it != group.columns->figures.end()) mass += it->second;
  mass /= static_cast<double>(context.groups.size());
  for (BudgetGroup& group : context.groups) {
    const bool lazy = mass > context.params.number("threshold") && group.visible > sinks + recent + last;
    group.kept = lazy ? std::max<std::int64_t>(1, sinks + recent - last) : group.visible;
  }
}

}  // namespace

extern const BudgetRow lazy_layers;
const BudgetRow lazy_layers = {
    .name = "lazy_layers",
    .source = "arXiv 2410.13846; NVIDIA/kvpress simlayerkv_press.py",
    .help = "layers that look at sinks and recent tokens alone keep those, the others everything",
    .params = {{"threshold", ParamType::number, "1", "share of attention above which a layer is lazy; 1 = none is", 0,
                1},
               {"sinks", ParamType::integer, "4", "first slots", 0, 1e9},
               {"recent", ParamType::integer, "1024", "latest slots, as the score counts them", 0, 1e9},
               {"last", ParamType::integer, "1", "newest queries, as the score counts them", 1, 1e6}},
    .needs = {},
    .scope = Scope::layer,
    .count = CountClass::fixed,
    .allocate = allocate,
    .columns = {"mass"},
};

}  // namespace kvgrind::sim::budgets
