// The oracle's score: attention that the known future queries will pay to each slot.
//   in   q of the queries known to come, keys of the slots, the full cache's log Σ exp of those queries when known
//   out  s [slots]: Σ over future queries of exp(logit − lse_full), summed (or max) over the group's query heads and
//        over queries by `over`; renormalised over the slots where lse_full is not known (then no exact bound)
//   source: kvgrind, after Belady's rule
#include <algorithm>

#include "sim/engine/future_rows.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const bool largest = context.params.word("over") == "max";
  std::vector<std::vector<double>> head(static_cast<std::size_t>(context.query_heads()),
                                        std::vector<double>(out.s.size(), 0.0));
  for_future_rows(context, [&](std::int64_t h, std::int64_t, View<const float, 1> p, double share) {
    std::vector<double>& column = head[static_cast<std::size_t>(h)];
    for (std::size_t j = 0; j < column.size(); ++j) {
      const double mass = share * static_cast<double>(p(static_cast<std::int64_t>(j)));
      column[j] = largest ? std::max(column[j], mass) : column[j] + mass;
    }
  });
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow future_attention;
const ScoreRow future_attention = {
    .name = "future_attention",
    .source = "kvgrind",
    .help = "attention of the queries known to come (the oracle)",
    .params = {{"over",
                ParamType::word,
                "sum",
                "queries join by sum or by max (keeps needles used once)",
                -1e300,
                1e300,
                {"sum", "max"}},
               {"reduce", ParamType::word, "sum", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries, Signal::future_queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
