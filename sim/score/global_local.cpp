// EMS: the larger of a token's attention from all queries and from the last ones.
//   in   column sums; rows of the last w queries
//   out  s [slots] = pooled max(global, local · mean global / mean local), global = Σ A / queries that saw the token,
//        local = mean over the window's queries; joined over the group's query heads
//   source: arXiv 2412.08521 (as kvgrind understands it)
#include "kernels/pool/pool.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t window = std::min(context.params.integer("window"), tokens);
  std::vector<std::vector<double>> global = running_column_sums(context);
  for (std::size_t h = 0; h < global.size(); ++h) {
    const std::vector<double> local =
        context.attention_sum(context.first_query_head() + static_cast<std::int64_t>(h), tokens - window, window);
    double all = 0, last = 0;
    for (std::size_t j = 0; j < local.size(); ++j) {
      global[h][j] /= static_cast<double>(tokens - slots.position[j]);
      all += global[h][j];
      last += local[j];
    }
    std::vector<float> value(local.size()), pooled(local.size());
    for (std::size_t j = 0; j < local.size(); ++j)
      value[j] = static_cast<float>(std::max(global[h][j], last > 0 ? local[j] * all / last : 0.0));
    if (!value.empty()) kernels::pool_avg(value, context.params.integer("pool"), pooled);
    global[h].assign(pooled.begin(), pooled.end());
  }
  out.s = reduce_heads(global, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow global_local;
const ScoreRow global_local = {
    .name = "global_local",
    .source = "arXiv 2412.08521",
    .help = "the larger of attention from all queries and from the last ones",
    .params = {{"window", ParamType::integer, "32", "last queries of the local part", 1, 65536},
               {"pool", ParamType::integer, "7", "width of average pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries, Signal::column_sums},
    .score = score,
};

}  // namespace kvgrind::sim::scores
