// A prompt taken block by block, simulated: after every block only the best B slots go on.
//   kept ← the first B slots; for each block of `size` slots after them: kept ← the best B of kept and block by the
//   inner score, computed on these alone; B = what the amount gives the group out  s [slots]: those kept at the end by
//   their last order (above 0), the others −1 − how long ago they left source: arXiv 2504.15364; NVIDIA/kvpress
//   block_press.py; deviations: the inner score sees slots by position (kvpress: in the order of the last scores)
#include <algorithm>
#include <numeric>

#include "sim/engine/priority.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t n = slots.size(), size = context.params.integer("size");
  const std::int64_t budget = std::clamp<std::int64_t>(context.base_tokens(), 0, n);
  std::vector<std::int32_t> kept(static_cast<std::size_t>(budget));
  std::iota(kept.begin(), kept.end(), 0);
  std::fill(out.s.begin(), out.s.end(), 0.0f);
  for (std::size_t i = 0; i < kept.size(); ++i) out.s[i] = static_cast<float>(n - static_cast<std::int64_t>(i));
  for (std::int64_t begin = budget; begin < n; begin += size) {
    const std::int64_t end = std::min(n, begin + size);
    std::vector<std::int32_t> candidates = kept;
    for (std::int64_t j = begin; j < end; ++j) candidates.push_back(static_cast<std::int32_t>(j));
    const GroupSlots part = slots_at(slots, candidates);
    const Columns columns = evaluate_part(context, context.params.call("of"), part, part.position.back() + 1);
    std::int64_t nan = 0;
    std::vector<std::int32_t> order = priority_order(part, columns.s, {}, nan);
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto slot = static_cast<std::size_t>(candidates[static_cast<std::size_t>(order[i])]);
      out.s[slot] = static_cast<std::int64_t>(i) < budget ? static_cast<float>(n - static_cast<std::int64_t>(i))
                                                          : -1.0f - static_cast<float>(n - begin);
    }
    const Selection selection = take_first(std::move(order), budget);
    std::vector<std::int32_t> next;
    for (const std::int32_t i : selection.kept) next.push_back(candidates[static_cast<std::size_t>(i)]);
    kept = std::move(next);
  }
}

}  // namespace

extern const ScoreRow blockwise;
const ScoreRow blockwise = {
    .name = "blockwise",
    .source = "arXiv 2504.15364; NVIDIA/kvpress block_press.py",
    .help = "another score, applied block by block to what is left",
    .params = {{"of", ParamType::call, "key_diff", "the score", -1e300, 1e300, {"score"}},
               {"size", ParamType::integer, "128", "slots of a block", 1, 1e9}},
    .needs = {},
    .score = score,
    .by_amount = true,
};

}  // namespace kvgrind::sim::scores
