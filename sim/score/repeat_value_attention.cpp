// KVzip+: attention while the context is repeated, as output: times the projected value, over the query's input norm.
//   s [slots] = max over the group's query heads h and queries i of p_hij · ‖W_O,h v_j‖₂ / ‖x_i‖₂, x = the attention's
//   input after its norm; p with softmax over=part: as score repeat_attention, over=row: over everything the query
//   sees, queries behind the instruction only. log=on: its natural logarithm, at least ln of the smallest normal number
//   first `sinks` positions and slots outside the context: +∞
//   source: arXiv 2601.07891; NVIDIA/kvpress kvzip_press.py (over=part), kvzap/data.py (over=row, log=on)
#include <cmath>
#include <limits>

#include "sim/engine/probe_scores.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const bool row = context.params.word("over") == "row";
  out.s = probe_scores(context, {.kind = Signal::repeat_probe,
                                 .statistic = row ? ProbeStatistic::row_max_norm : ProbeStatistic::part_max_norm,
                                 .mean = false,
                                 .values = true});
  if (context.params.boolean("log"))
    for (float& s : out.s) s = std::log(std::max(s, std::numeric_limits<float>::min()));
  keep_sinks(context.slots(), context.params.integer("sinks"), out.s);
}

}  // namespace

extern const ScoreRow repeat_value_attention;
const ScoreRow repeat_value_attention = {
    .name = "repeat_value_attention",
    .source = "arXiv 2601.07891; NVIDIA/kvpress kvzip_press.py, kvzap/data.py",
    .help = "largest attention while the model repeats the context, as a share of the output",
    .params = {{"sinks", ParamType::integer, "4", "first tokens, kept before all scores", 0, 1e9},
               {"over", ParamType::word, "part", "what the softmax is over", -1e300, 1e300, {"part", "row"}},
               {"log", ParamType::boolean, "off", "its logarithm: what KVzap is fitted to"}},
    .needs = {Signal::repeat_probe, Signal::output_projection},
    .score = score,
};

}  // namespace kvgrind::sim::scores
