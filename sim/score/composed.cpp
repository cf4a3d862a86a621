// Two scores one after the other: the second sees what the first leaves, as if there had never been more.
//   with B of n slots to keep, the first leaves the best floor(n · (B/n)^share + 1e-9) (at least B)
//   out  s [slots]: those left by the second score's order (above 0), the others by the first's (below 0)
//   source: NVIDIA/kvpress composed_press.py
#include <algorithm>
#include <cmath>

#include "sim/engine/priority.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const std::int64_t n = context.slots().size();
  if (n == 0) return;
  const std::int64_t budget = std::clamp<std::int64_t>(context.base_tokens(), 0, n);
  const auto whole = static_cast<double>(n);
  const auto left = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(
          std::floor(whole * std::pow(static_cast<double>(budget) / whole, context.params.number("share")) + 1e-9)),
      budget, n);
  context.evaluate(context.params.call("first"), out);
  std::int64_t nan = 0;
  const std::vector<std::int32_t> order = priority_order(context.slots(), out.s, {}, nan);
  for (std::size_t i = 0; i < order.size(); ++i)
    out.s[static_cast<std::size_t>(order[i])] = -1.0f - static_cast<float>(i);
  const Selection selection = take_first(order, left);
  if (selection.kept.empty()) return;
  const GroupSlots part = slots_at(context.slots(), selection.kept);
  const Columns second = evaluate_part(context, context.params.call("second"), part, context.moment.tokens);
  const std::vector<std::int32_t> again = priority_order(part, second.s, {}, nan);
  for (std::size_t i = 0; i < again.size(); ++i)
    out.s[static_cast<std::size_t>(selection.kept[static_cast<std::size_t>(again[i])])] =
        static_cast<float>(again.size() - i);
}

}  // namespace

extern const ScoreRow composed;
const ScoreRow composed = {
    .name = "composed",
    .source = "NVIDIA/kvpress composed_press.py",
    .help = "one score, then another on what is left",
    .params = {{"first", ParamType::call, "key_diff", "the first score", -1e300, 1e300, {"score"}},
               {"second", ParamType::call, "key_norm", "the second score", -1e300, 1e300, {"score"}},
               {"share", ParamType::number, "0.5", "exponent of the kept share that the first takes", 0, 1}},
    .needs = {},
    .score = score,
    .by_amount = true,
};

}  // namespace kvgrind::sim::scores
