// Each layer keeps a share of its own: a list, one entry a layer (or a single one for all).
//   kept = int(S · share) in binary64; the amount is not used
//   errors: another number of entries throws Error(usage)
//   source: NVIDIA/kvpress per_layer_compression_press.py; deviations: shares kept, where kvpress lists those removed
#include <fmt/format.h>

#include "core/error.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::vector<double> share = context.params.numbers("share");
  const auto layers = static_cast<std::size_t>(context.facts.card->layers);
  if (share.size() != 1 && share.size() != layers)
    throw Error(Category::usage, {.doing = "sharing by layer",
                                  .found = fmt::format("{} shares", share.size()),
                                  .expected = fmt::format("1 or {} (one a layer)", layers)});
  for (BudgetGroup& group : context.groups)
    group.kept = static_cast<std::int64_t>(static_cast<double>(group.tokens) *
                                           share[share.size() == 1 ? 0 : static_cast<std::size_t>(group.layer)]);
}

}  // namespace

extern const BudgetRow per_layer;
const BudgetRow per_layer = {
    .name = "per_layer",
    .source = "NVIDIA/kvpress per_layer_compression_press.py",
    .help = "a share for each layer, from a list",
    .params = {{"share", ParamType::list, "[0.5]", "share kept by each layer; a single one = all", 0, 1}},
    .needs = {},
    .scope = Scope::layer,
    .count = CountClass::fixed,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
