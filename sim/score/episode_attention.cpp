// EpiCache: how much the text of an episode looks at a key of the context.
//   s [slots] = max over the group's query heads and the queries of the episode's pass (an instruction, then its chosen
//   windows of the context) of the attention that the key receives, softmax over the context's keys alone
//   episode=-1: the largest over all episodes, for one cache that serves them all
//   first `sinks` positions and slots outside the context: +∞
//   source: arXiv 2509.17396; apple/ml-epicache attention/score.py, model/wrapper.py
#include "sim/engine/probe_scores.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  out.s = probe_scores(context, {.kind = Signal::episode_probe,
                                 .statistic = ProbeStatistic::part_max,
                                 .mean = false,
                                 .values = false,
                                 .number = context.params.integer("episode")});
  keep_sinks(context.slots(), context.params.integer("sinks"), out.s);
}

}  // namespace

extern const ScoreRow episode_attention;
const ScoreRow episode_attention = {
    .name = "episode_attention",
    .source = "arXiv 2509.17396; apple/ml-epicache",
    .help = "largest attention of texts that stand for episodes of the context",
    .params = {{"episode", ParamType::integer, "-1", "number of the episode; -1 = the largest over all", -1, 1e6},
               {"sinks", ParamType::integer, "0", "first tokens, kept before all scores", 0, 1e9}},
    .needs = {Signal::episode_probe},
    .score = score,
};

}  // namespace kvgrind::sim::scores
