// Heads get tokens by given weights, above a floor for each (HeadKV: retrieval scores of heads).
//   in   of = one weight ≥ 0 for each (layer, cache head), layer by layer, or one for each layer; a single one = equal
//   out  floor(floor · B) for every group, the rest of the model's tokens in the ratio of the weights, whole numbers by
//        the largest remainder; groups sum to the amount exactly
//   source: Zefan-Cai/KVCache-Factory pyramidkv_utils.py (HeadKVCluster)
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  const std::vector<double> given = context.params.numbers("of");
  const std::int64_t layers = context.facts.card->layers;
  std::int64_t heads = 0;
  for (const BudgetGroup& group : context.groups) heads = std::max(heads, group.group + 1);
  const auto count = static_cast<std::int64_t>(given.size());
  if (count != 1 && count != layers && count != layers * heads)
    throw Error(Category::usage,
                {.doing = "sharing by head weights",
                 .found = fmt::format("{} weights", count),
                 .expected = fmt::format("{} (one a cache head) or {} (one a layer)", layers * heads, layers)});
  const double floor_share = context.params.number("floor");
  std::vector<double> weight;
  std::vector<std::int64_t> low, high, kept;
  std::int64_t rest = 0;
  for (const BudgetGroup& group : context.groups) {
    const std::int64_t base = std::min(group.base, group.visible);
    kept.push_back(static_cast<std::int64_t>(std::floor(floor_share * static_cast<double>(base) + 1e-9)));
    rest += base - kept.back();
    low.push_back(0);
    high.push_back(group.visible - kept.back());
    const std::int64_t at = count == layers ? group.layer : group.layer * heads + group.group;
    weight.push_back(count == 1 ? 1.0 : given[static_cast<std::size_t>(at)]);
  }
  const std::vector<std::int64_t> more = apportion(weight, rest, low, high);
  for (std::size_t g = 0; g < more.size(); ++g) context.groups[g].kept = kept[g] + more[g];
}

}  // namespace

extern const BudgetRow head_weights;
const BudgetRow head_weights = {
    .name = "head_weights",
    .source = "Zefan-Cai/KVCache-Factory (HeadKV)",
    .help = "tokens by given weights of heads or layers, above a floor",
    .params = {{"of", ParamType::list, "[1]", "a weight for each cache head or layer; one = equal", 0, 1e300},
               {"floor", ParamType::number, "0.2", "share of a head's equal part that is its own", 0, 1}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
