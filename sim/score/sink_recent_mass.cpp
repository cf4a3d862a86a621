// How much of the newest queries' attention lies on the first and the latest slots.
//   rows: the last `last` queries; their own `last` columns take part in the softmax and are then left out
//   out  figure `mass` = mean over rows and the group's query heads of the attention on the first `sinks` and the last
//        `recent` of the other slots; s = position (newer scores higher)
//   source: arXiv 2410.13846; NVIDIA/kvpress simlayerkv_press.py
#include <algorithm>

#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  for (std::size_t i = 0; i < slots.position.size(); ++i) out.s[i] = static_cast<float>(slots.position[i]);
  const std::int64_t rows = std::min(context.params.integer("last"), context.moment.tokens);
  const std::int64_t columns = std::max<std::int64_t>(0, slots.size() - rows);
  const std::int64_t sinks = std::min(context.params.integer("sinks"), columns);
  const std::int64_t recent = std::max(sinks, columns - context.params.integer("recent"));
  double mass = 0;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::vector<double> sum =
        context.attention_sum(context.first_query_head() + h, context.moment.tokens - rows, rows);
    for (std::int64_t j = 0; j < columns; ++j)
      if (j < sinks || j >= recent) mass += sum[static_cast<std::size_t>(j)];
  }
  out.figures["mass"] = mass / static_cast<double>(rows * context.query_heads());
}

}  // namespace

extern const ScoreRow sink_recent_mass;
const ScoreRow sink_recent_mass = {
    .name = "sink_recent_mass",
    .source = "arXiv 2410.13846; NVIDIA/kvpress simlayerkv_press.py",
    .help = "newer tokens score higher; with the newest queries' attention on sinks and recent tokens",
    .params = {{"last", ParamType::integer, "1", "newest queries that are looked at", 1, 1e6},
               {"sinks", ParamType::integer, "4", "first slots", 0, 1e9},
               {"recent", ParamType::integer, "1024", "latest slots before those queries", 0, 1e9}},
    .needs = {Signal::queries},
    .score = score,
    .gives = {"mass"},
};

}  // namespace kvgrind::sim::scores
