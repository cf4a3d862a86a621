// Part of the budget by the score, the rest by a second column among what is left.
//   first = floor(share · budget + 1e-9) slots by s; the others by `second`
//   source: arXiv 2502.03805; NVIDIA/kvpress criticalkv_press.py
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::vector<std::int32_t> by_score = priority_order(context.slots, context.columns.s, {}, context.nan_scores);
  const auto first = std::min(
      by_score.size(), static_cast<std::size_t>(
                           std::floor(context.params.number("share") * static_cast<double>(context.budget) + 1e-9)));
  std::vector<char> taken(by_score.size());
  std::vector<std::int32_t> order(by_score.begin(), by_score.begin() + static_cast<std::ptrdiff_t>(first));
  for (const std::int32_t slot : order) taken[static_cast<std::size_t>(slot)] = 1;
  std::int64_t counted_already = 0;
  for (const std::int32_t slot :
       priority_order(context.slots, context.columns.extra.find("second")->second, {}, counted_already))
    if (!taken[static_cast<std::size_t>(slot)]) order.push_back(slot);
  return take_first(std::move(order), context.budget);
}

}  // namespace

extern const SelectRow two_stage;
const SelectRow two_stage = {
    .name = "two_stage",
    .source = "arXiv 2502.03805; NVIDIA/kvpress criticalkv_press.py",
    .help = "part of the budget by the score, the rest by a second one",
    .params = {{"share", ParamType::number, "0.5", "share of the budget that the score takes", 0, 1}},
    .columns = {"second"},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
