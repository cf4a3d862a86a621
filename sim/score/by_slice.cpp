// Another score, each slice of consecutive slots scored as if it were the whole cache.
//   sinks, windows, means and partitions of the inner score begin anew in every slice
//   source: NVIDIA/kvpress chunk_press.py
#include <algorithm>
#include <numeric>

#include "sim/engine/score_support.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t n = slots.size(), size = context.params.integer("size");
  out.s.clear();
  for (std::int64_t begin = 0; begin < n; begin += size) {
    std::vector<std::int32_t> index(static_cast<std::size_t>(std::min(size, n - begin)));
    std::iota(index.begin(), index.end(), static_cast<std::int32_t>(begin));
    const GroupSlots part = slots_at(slots, index);
    const Columns own = evaluate_part(context, context.params.call("of"), part, context.moment.tokens);
    out.s.insert(out.s.end(), own.s.begin(), own.s.end());
  }
}

}  // namespace

extern const ScoreRow by_slice;
const ScoreRow by_slice = {
    .name = "by_slice",
    .source = "NVIDIA/kvpress chunk_press.py",
    .help = "another score, each slice of the cache scored by itself",
    .params = {{"of", ParamType::call, "key_diff", "the score of a slice", -1e300, 1e300, {"score"}},
               {"size", ParamType::integer, "1024", "slots of a slice", 1, 1e9}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
