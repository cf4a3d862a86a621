// TreeKV: a cursor sweeps over the slots; whenever there is one too many, the weaker of the pair at the cursor leaves,
// so that older stretches have been thinned more often.
//   at a firing slots join one by one, oldest first; with more than B: of slots cur and cur + 1 the one with the lower
//   score leaves (ties: the left), cur = (cur + 1) mod max(1, B − recent); the cursor starts behind the sinks
//   source: arXiv 2501.04987 (the rule of the cursor is kvgrind's)
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), budget = std::min(context.budget, n);
  std::vector<float>& memory = context.memory["pairs"];
  if (memory.empty()) memory = {0.0f};
  auto cursor = static_cast<std::int64_t>(memory[0]);
  const std::int64_t sink =
      std::clamp<std::int64_t>(context.params.integer("sink"), 0, std::max<std::int64_t>(0, budget - 1));
  const std::int64_t sweep = std::max<std::int64_t>(1, budget - sink - context.params.integer("recent"));
  Selection out;
  for (std::int64_t j = 0; j < n; ++j) {
    out.kept.push_back(static_cast<std::int32_t>(j));
    if (static_cast<std::int64_t>(out.kept.size()) <= budget) continue;
    if (budget == 0) {
      out.kept.clear();
      continue;
    }
    const std::int64_t left = sink + cursor % sweep;
    const auto score = [&](std::int64_t at) {
      return context.columns.s[static_cast<std::size_t>(out.kept[static_cast<std::size_t>(at)])];
    };
    const std::int64_t loser = score(left + 1) < score(left) ? left + 1 : left;
    out.kept.erase(out.kept.begin() + static_cast<std::ptrdiff_t>(loser));
    cursor = (cursor + 1) % sweep;
  }
  memory[0] = static_cast<float>(cursor);
  out.order = out.kept;
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(n); ++j)
    if (!std::binary_search(out.kept.begin(), out.kept.end(), j)) out.order.push_back(j);
  return out;
}

}  // namespace

extern const SelectRow pairs;
const SelectRow pairs = {
    .name = "pairs",
    .source = "arXiv 2501.04987",
    .help = "the weaker of a pair leaves, the pair sweeping over the cache",
    .params = {{"recent", ParamType::integer, "1", "last slots that are spared", 0, 1e9},
               {"sink", ParamType::integer, "0", "first slots that are spared", 0, 1e9}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
