// Attention of the newest query, one score for the whole layer.
//   out  s [slots]: mean over all query heads of the layer of the last query's attention row
//   source: arXiv 2401.06104; schwartz-lab-NLP/TOVA tova_cache.py
//   deviations: where groups hold different slots (other selectors), a head counts 0 for tokens it has lost
#include "sim/engine/newest_attention.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t heads = context.query_heads();
  std::vector<double> sum(out.s.size(), 0.0);
  for (std::int64_t group = 0; group < context.cache.heads(); ++group) {
    const Array<float, 2> rows = attention_of_position(context, group, context.moment.tokens - 1);
    const GroupSlots& other = slots_of_head(context, group * heads);
    const bool same = other.position == slots.position;
    for (std::int64_t h = 0; h < heads; ++h) {
      const float* row = rows.data() + h * rows.extent(1);
      if (same) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(row[i]);
        continue;
      }
      std::size_t at = 0;
      for (std::size_t j = 0; j < other.position.size(); ++j) {
        while (at < sum.size() && slots.position[at] < other.position[j]) ++at;
        if (at < sum.size() && slots.position[at] == other.position[j]) sum[at] += static_cast<double>(row[j]);
      }
    }
  }
  const auto all = static_cast<double>(context.facts.card->query_heads);
  for (std::size_t i = 0; i < sum.size(); ++i) out.s[i] = static_cast<float>(sum[i] / all);
}

}  // namespace

extern const ScoreRow last_query;
const ScoreRow last_query = {
    .name = "last_query",
    .source = "arXiv 2401.06104; schwartz-lab-NLP/TOVA",
    .help = "attention of the newest query, mean over the layer",
    .params = {},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
