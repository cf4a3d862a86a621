// KVzip: how much the model looks at a key while it repeats the context.
//   s [slots] = max over the group's query heads and all queries of the repeating pass of the attention that the key
//   receives, softmax over {sinks, the keys of its part of the context, the pass's own keys}; post-RoPE
//   first `sinks` positions and slots outside the context: +∞
//   source: arXiv 2505.23416; snu-mllab/KVzip attention/score.py; NVIDIA/kvpress kvzip_press.py
//   deviations: softmax in fp32, published code in the model's type
#include "sim/engine/probe_scores.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  out.s = probe_scores(context, {.kind = Signal::repeat_probe, .statistic = ProbeStatistic::part_max});
  keep_sinks(context.slots(), context.params.integer("sinks"), out.s);
}

}  // namespace

extern const ScoreRow repeat_attention;
const ScoreRow repeat_attention = {
    .name = "repeat_attention",
    .source = "arXiv 2505.23416; snu-mllab/KVzip; NVIDIA/kvpress kvzip_press.py",
    .help = "largest attention while the model repeats the context",
    .params = {{"sinks", ParamType::integer, "4", "first tokens, kept before all scores", 0, 1e9}},
    .needs = {Signal::repeat_probe},
    .score = score,
};

}  // namespace kvgrind::sim::scores
