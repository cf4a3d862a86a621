// Attention of the first queries after the moment, pooled: what a cheap draft of the answer would look at.
//   in   q of the next n positions (or as many as are known), keys of the slots
//   out  s [slots]: mean over those queries of attention over the slots, pooled, joined over the group's query heads
//   source: noforit/Lookahead_Q-Cache (the draft's queries); in the open loop the recorded queries stand in for them
#include "kernels/pool/pool.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const auto [begin, end] = context.signals.future(context.moment.tokens);
  const std::int64_t n = std::min(context.params.integer("n"), end - begin);
  if (n <= 0 || out.s.empty()) return;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::vector<double> sum = context.attention_sum(context.first_query_head() + h, begin, n);
    std::vector<float> mean, pooled(sum.size());
    for (const double x : sum) mean.push_back(static_cast<float>(x / static_cast<double>(n)));
    (context.params.word("kernel") == "max" ? kernels::pool_max : kernels::pool_avg)(
        mean, context.params.integer("pool"), pooled);
    head.emplace_back(pooled.begin(), pooled.end());
  }
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow lookahead_attention;
const ScoreRow lookahead_attention = {
    .name = "lookahead_attention",
    .source = "noforit/Lookahead_Q-Cache",
    .help = "attention of the first queries after the moment",
    .params = {{"n", ParamType::integer, "8", "queries after the moment", 1, 65536},
               {"pool", ParamType::integer, "7", "width of pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"kernel", ParamType::word, "max", "pooling: avg counts zero padding", -1e300, 1e300, {"avg", "max"}},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries, Signal::future_queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
