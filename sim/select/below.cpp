// What scores below a level goes, once it has left the window of the newest slots.
//   kept: the last `window` slots, and every slot with s ≥ threshold (a slot at exactly the threshold stays; NaN goes)
//   source: arXiv 2506.05345; NVIDIA/kvpress dms_press.py
#include <algorithm>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), window = context.params.integer("window");
  const double threshold = context.params.number("threshold");
  std::int64_t kept = 0;
  std::vector<float> level(context.columns.s.size());
  for (std::int64_t j = 0; j < n; ++j) {
    const float s = context.columns.s[static_cast<std::size_t>(j)];
    const bool stays = j >= n - window || static_cast<double>(s) >= threshold;
    level[static_cast<std::size_t>(j)] = stays ? 1.0f : 0.0f;
    kept += stays;
    context.nan_scores += s != s;
  }
  std::int64_t none = 0;
  return take_first(priority_order(context.slots, level, {.recent = window}, none), kept);
}

}  // namespace

extern const SelectRow below;
const SelectRow below = {
    .name = "below",
    .source = "arXiv 2506.05345; NVIDIA/kvpress dms_press.py",
    .help = "what scores below a level goes once it is older than a window",
    .params = {{"threshold", ParamType::number, "0", "level below which a slot goes"},
               {"window", ParamType::integer, "128", "newest slots that stay in any case", 0, 1e9}},
    .columns = {},
    .count = CountClass::fixed,
    .select = select,
};

}  // namespace kvgrind::sim::selects
