// Attention of the newest query, one score for the whole layer.
//   out  s [slots]: mean over all query heads of the layer of the last query's attention row
//   source: arXiv 2401.06104; schwartz-lab-NLP/TOVA tova_cache.py
//   deviations: where groups hold different slots (other selectors), a head counts 0 for tokens it has lost
#include <algorithm>

#include "sim/engine/slot_part.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  std::vector<double> sum(out.s.size(), 0.0);
  for (std::int64_t head = 0; head < card.query_heads; ++head) {
    const std::vector<double> row = context.attention_sum(head, context.moment.tokens - 1, 1);
    const GroupSlots& other = slots_of_head(context, head);
    std::size_t at = 0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      while (at < sum.size() && slots.position[at] < other.position[j]) ++at;
      if (at < sum.size() && slots.position[at] == other.position[j]) sum[at] += row[j];
    }
  }
  for (std::size_t i = 0; i < sum.size(); ++i)
    out.s[i] = static_cast<float>(sum[i] / static_cast<double>(card.query_heads));
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
