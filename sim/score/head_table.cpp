// What was fitted for each head: how much it needs the far past.
//   in   tensor "head" [L, Hk] of a calibration
//   out  figure "retrieval" = the group's entry (the mean over the KV heads that a group serves); s [slots] = position
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  for (std::size_t j = 0; j < out.s.size(); ++j) out.s[j] = static_cast<float>(slots.position[j]);
  const ModelCard& card = *context.facts.card;
  const auto& table = context.params.calibration("calib").tensor("head", {card.layers, card.kv_heads});
  const std::int64_t head = context.group * card.kv_heads / context.cache.heads();
  out.figures["retrieval"] = table.values[static_cast<std::size_t>(context.layer * card.kv_heads + head)];
}

}  // namespace

extern const ScoreRow head_table;
const ScoreRow head_table = {
    .name = "head_table",
    .source = "arXiv 2410.10819 (DuoAttention)",
    .help = "a figure for each head that was fitted beforehand",
    .params = {{"calib", ParamType::calibration, "\"\"", "what kvgrind fit duo wrote", -1e300, 1e300, {"duo"}}},
    .needs = {},
    .score = score,
    .gives = {"retrieval"},
};

}  // namespace kvgrind::sim::scores
