#include "sim/engine/token_features.h"

#include <algorithm>

#include "core/error.h"
#include "sim/engine/pre_rope.h"
#include "sim/engine/score_support.h"
#include "sim/engine/slot_part.h"

namespace kvgrind::sim {

Array<float, 2> token_features(const ScoreContext& context, std::int64_t first) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& own = context.slots();
  const std::vector<std::int64_t> wanted(own.position.begin() + static_cast<std::ptrdiff_t>(slots_below(own, first)),
                                         own.position.end());
  const auto n = static_cast<std::int64_t>(wanted.size());
  const std::int64_t dim = card.head_dim;
  Array<float, 2> out({n, feature_count(card)});
  const auto place = [&](std::int64_t column, const float* rows) {
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(rows + i * dim, dim, &out(i, column));
  };
  for (std::int64_t g = 0; g < card.kv_heads; ++g) {
    const std::int64_t cache_head = g * context.cache.heads() / card.kv_heads;
    const GroupSlots& slots = context.cache.group(context.layer, cache_head);
    std::vector<std::int32_t> index;
    for (const std::int64_t position : wanted) {
      const std::size_t at = slots_below(slots, position);
      if (at == slots.position.size() || slots.position[at] != position)
        throw Error(Category::usage, {.doing = "reading a token's keys and values",
                                      .found = "cache heads of a layer that hold different tokens",
                                      .expected = "the same new tokens in all"});
      index.push_back(static_cast<std::int32_t>(at));
    }
    const GroupSlots part = slots_at(slots, index);
    ScoreContext inner{context.params, context.facts,  context.moment, context.signals, context.cache, context.layer,
                       cache_head,     context.memory, &part};
    place((card.query_heads + g) * dim, pre_rope_keys(inner).data());
    place((card.query_heads + card.kv_heads + g) * dim, part.v.data());
    for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h)
      place(h * dim, slot_queries(inner, h, true).data());
  }
  return out;
}

}  // namespace kvgrind::sim
