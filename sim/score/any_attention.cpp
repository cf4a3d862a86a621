// The largest attention that any of the last queries paid to a slot.
//   in   rows: the last `share` of all queries (half of that above 24000 tokens), mean over all query heads of the
//   layer out  s [slots] = max over rows logits=official: q·k without scale and without causal mask, as the published
//   code computes them source: zwxandy/MPCache llama_flash_attn_monkey_patch_compression.py deviations: where groups
//   hold different slots, a head counts 0 for tokens it has lost
#include <Eigen/Core>

#include "sim/engine/score_support.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Array<float, 2> unmasked(const ScoreContext& context, std::int64_t head, std::int64_t first, std::int64_t n) {
  const GroupSlots& slots = slots_of_head(context, head);
  const Array<float, 2> q = context.signals.queries(context.layer, head, first, n);
  Array<float, 2> out({n, slots.size()});
  Eigen::Map<Rows> p(out.data(), n, slots.size());
  p = Eigen::Map<const Rows>(q.data(), n, slots.head_dim) *
      Eigen::Map<const Rows>(slots.k.data(), slots.size(), slots.head_dim).transpose();
  for (std::int64_t i = 0; i < n && slots.size() > 0; ++i) {
    p.row(i) = (p.row(i).array() - p.row(i).maxCoeff()).exp();
    p.row(i) /= p.row(i).sum();
  }
  return out;
}

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const std::int64_t tokens = context.moment.tokens;
  const double share = context.params.number("share") * (tokens > 24000 ? 0.5 : 1.0);
  const auto asked = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(share * static_cast<double>(tokens) + 1e-9)), 1, tokens);
  const bool official = context.params.word("logits") == "official";
  const auto& at = context.slots().position;
  constexpr std::int64_t block = 256;
  for (std::int64_t first = tokens - asked; first < tokens; first += block) {
    const std::int64_t n = std::min(block, tokens - first);
    Array<float, 2> mean({n, static_cast<std::int64_t>(out.s.size())});
    for (std::int64_t head = 0; head < card.query_heads; ++head) {
      const auto& from = slots_of_head(context, head).position;
      const Array<float, 2> p = official ? unmasked(context, head, first, n) : context.attention(head, first, n);
      for (std::size_t i = 0, j = 0; i < at.size(); ++i) {
        while (j < from.size() && from[j] < at[i]) ++j;
        if (j == from.size() || from[j] != at[i]) continue;
        for (std::int64_t row = 0; row < n; ++row)
          mean(row, static_cast<std::int64_t>(i)) +=
              p(row, static_cast<std::int64_t>(j)) / static_cast<float>(card.query_heads);
      }
    }
    for (std::int64_t row = 0; row < n; ++row)
      for (std::size_t j = 0; j < out.s.size(); ++j)
        out.s[j] = std::max(out.s[j], mean(row, static_cast<std::int64_t>(j)));
  }
}

}  // namespace

extern const ScoreRow any_attention;
const ScoreRow any_attention = {
    .name = "any_attention",
    .source = "zwxandy/MPCache",
    .help = "the largest attention that any of the last queries paid, mean over the layer",
    .params = {{"share", ParamType::number, "0.2", "share of the queries, the last ones; halved above 24000", 0, 1},
               {"logits",
                ParamType::word,
                "attention",
                "attention: as the model has it; official: unscaled and without causal mask",
                -1e300,
                1e300,
                {"attention", "official"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
