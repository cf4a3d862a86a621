// The oracle's score: attention that the known future queries will pay to each slot.
//   in   q of the queries known to come, keys of the slots, the full cache's log Σ exp of those queries when known
//   out  s [slots]: Σ over future queries of exp(logit − lse_full), summed (or max) over the group's query heads and
//        over queries by `over`; renormalised over the slots where lse_full is not known (then no exact bound)
//   source: kvgrind, after Belady's rule
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  const auto [begin, end] = context.signals.future(context.moment.tokens);
  const bool largest = context.params.word("over") == "max";
  constexpr std::int64_t rows = 256;  // queries at a time, so that memory stays small
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::int64_t query_head = context.first_query_head() + h;
    std::vector<double>& column = head.emplace_back(out.s.size(), 0.0);
    for (std::int64_t first = begin; first < end; first += rows) {
      const std::int64_t n = std::min(rows, end - first);
      std::vector<float> lse;
      const Array<float, 2> p = context.attention(query_head, first, n, &lse);
      const std::vector<float> full = context.signals.log_sum_exp(context.layer, query_head, first, n);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto row = static_cast<std::size_t>(i);
        const double share =
            full.empty() ? 1.0 : std::exp(static_cast<double>(lse[row]) - static_cast<double>(full[row]));
        for (std::size_t j = 0; j < column.size(); ++j) {
          const double mass = share * static_cast<double>(p(i, static_cast<std::int64_t>(j)));
          column[j] = largest ? std::max(column[j], mass) : column[j] + mass;
        }
      }
    }
  }
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
