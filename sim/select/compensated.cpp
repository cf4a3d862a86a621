// Sinks, the last slots, and one slot that stands for all others (a merging act with to=assigned fills it).
//   budget − sinks − 1 last slots; the oldest of the others stays, and every other dropped slot is named to go into it
//   source: arXiv 2407.15891 (compensation token); mindspore-ai/golden-stick attention_wrappers.py
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), budget = std::clamp<std::int64_t>(context.budget, 0, n);
  const std::int64_t sinks =
      std::clamp<std::int64_t>(context.params.integer("sinks"), 0, std::max<std::int64_t>(0, budget - 1));
  const std::int64_t recent = budget == n ? n - sinks : std::max<std::int64_t>(0, budget - sinks - 1);
  Selection out;
  out.into.assign(static_cast<std::size_t>(n), -1);
  std::vector<std::int32_t> dropped;
  for (std::int32_t j = 0; j < n; ++j) {
    const bool stands = budget < n && budget > 0 && j == sinks;
    if (j < sinks || j >= n - recent || stands)
      out.kept.push_back(j);
    else
      dropped.push_back(j);
  }
  if (budget < n && budget > 0)
    for (const std::int32_t j : dropped) out.into[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(sinks);
  out.order = out.kept;
  out.order.insert(out.order.end(), dropped.rbegin(), dropped.rend());
  return out;
}

}  // namespace

extern const SelectRow compensated;
const SelectRow compensated = {
    .name = "compensated",
    .source = "arXiv 2407.15891",
    .help = "sinks, the last slots, and one that stands for all others",
    .params = {{"sinks", ParamType::integer, "4", "first slots that stay", 0, 1e9}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
