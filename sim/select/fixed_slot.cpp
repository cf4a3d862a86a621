// Elastic Cache and PrefixKV: sinks, the best scores and the newest at first; afterwards always the same slot leaves.
//   first firing: the first `sink` slots, the newest, then by score, B in all. Later, over B: slot
//   B at the first firing + distance (the middle when that lies outside) leaves until B are left
//   rank=upstream (Elastic's published comparison): of the n candidates between sinks and newest those whose entry of
//   argsort(score), ascending, exceeds n − (B − sinks − 1) stay: one fewer, and unrelated to the scores
//   source: arXiv 2407.18121; liuzuyan/ElasticCache kv_cache.py
#include <algorithm>
#include <numeric>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection with_rest(std::vector<std::int32_t> kept, std::int64_t n) {
  Selection out{.kept = std::move(kept), .order = {}};
  out.order = out.kept;
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(n); ++j)
    if (!std::binary_search(out.kept.begin(), out.kept.end(), j)) out.order.push_back(j);
  return out;
}

Selection upstream(const SelectContext& context, std::int64_t sink) {
  const std::int64_t n = context.slots.size(), candidates = n - sink - 1,
                     forget = candidates - (context.budget - sink - 1);
  std::vector<std::int32_t> ascending(static_cast<std::size_t>(candidates));
  std::iota(ascending.begin(), ascending.end(), 0);
  std::stable_sort(ascending.begin(), ascending.end(), [&](std::int32_t a, std::int32_t b) {
    return context.columns.s[static_cast<std::size_t>(sink + a)] <
           context.columns.s[static_cast<std::size_t>(sink + b)];
  });
  std::vector<std::int32_t> kept;
  for (std::int64_t j = 0; j < n; ++j)
    if (j < sink || j == n - 1 || ascending[static_cast<std::size_t>(j - sink)] > forget)
      kept.push_back(static_cast<std::int32_t>(j));
  return with_rest(std::move(kept), n);
}

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), sink = context.params.integer("sink");
  std::vector<float>& slot = context.memory["fixed_slot"];
  if (slot.empty()) {
    std::int64_t at = context.budget + context.params.integer("distance");
    if (at < sink || at >= context.budget) at = context.budget / 2;
    slot = {static_cast<float>(at)};
    if (n > context.budget && context.params.word("rank") == "upstream" && context.budget > sink)
      return upstream(context, sink);
    const Protection protection{.sink = sink, .recent = context.params.integer("recent")};
    return take_first(priority_order(context.slots, context.columns.s, protection, context.nan_scores), context.budget);
  }
  std::vector<std::int32_t> kept(static_cast<std::size_t>(n));
  std::iota(kept.begin(), kept.end(), 0);
  while (static_cast<std::int64_t>(kept.size()) > std::max<std::int64_t>(context.budget, 0)) {
    const auto at = std::min(static_cast<std::size_t>(slot[0]), kept.size() - 1);
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return with_rest(std::move(kept), n);
}

}  // namespace

extern const SelectRow fixed_slot;
const SelectRow fixed_slot = {
    .name = "fixed_slot",
    .source = "arXiv 2407.18121; liuzuyan/ElasticCache kv_cache.py",
    .help = "by score at first, then always the same slot leaves",
    .params = {{"sink", ParamType::integer, "4", "first slots, always kept", 0, 1e9},
               {"recent", ParamType::integer, "1", "last slots, kept at the first firing", 0, 1e9},
               {"distance", ParamType::integer, "-25", "of the slot that leaves, from the end of the first set", -1e9,
                0},
               {"rank",
                ParamType::word,
                "score",
                "score: the best; upstream: as the published comparison has it",
                -1e300,
                1e300,
                {"score", "upstream"}}},
    .columns = {},
    .count = CountClass::at_most,
    .select = select,
};

}  // namespace kvgrind::sim::selects
