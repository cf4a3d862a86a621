// Projection of a key on the main direction of its head's queries: its average logit, whatever the query.
//   in   tensor "direction" [L, Hk, D] (mean q·v > 0), keys of the slots (post-RoPE)       out  s [slots] = v·k
//   source: arXiv 2503.02812; NathanGodey/qfilters utils.py; NVIDIA/kvpress qfilter_press.py (whose files hold −v)
#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const auto& table =
      context.params.calibration("calib").tensor("direction", {card.layers, card.kv_heads, card.head_dim});
  const std::int64_t head = context.group * card.kv_heads / context.cache.heads();
  const float* v = table.values.data() + (context.layer * card.kv_heads + head) * card.head_dim;
  const View<const float, 2> k = context.slots().keys();
  for (std::int64_t j = 0; j < k.extent(0); ++j) {
    double dot = 0;
    for (std::int64_t d = 0; d < card.head_dim; ++d) dot += static_cast<double>(v[d]) * static_cast<double>(k(j, d));
    out.s[static_cast<std::size_t>(j)] = static_cast<float>(dot);
  }
}

}  // namespace

extern const ScoreRow key_projection;
const ScoreRow key_projection = {
    .name = "key_projection",
    .source = "arXiv 2503.02812; NVIDIA/kvpress qfilter_press.py",
    .help = "keys along the main direction of their head's queries",
    .params =
        {{"calib", ParamType::calibration, "\"\"", "what kvgrind fit qfilters wrote", -1e300, 1e300, {"qfilters"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
