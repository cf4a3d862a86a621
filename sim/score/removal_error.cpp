// An oracle by output: how far the outputs of the queries known to come move when a slot alone is removed.
//   in   q of the queries known to come, keys and values of the slots, the full cache's log Σ exp when known
//   out  s [slots] = Σ over future queries and the group's query heads of (a / (1 − a))² · ‖v − o‖²: a the slot's
//        attention, o the output over the slots; of a query that looks at this slot only (1 − a below 1e-6) as if 1e-6
//        looked elsewhere
//   one removal at a time, so not a bound: slots that stand in for each other are both judged needless
//   source: kvgrind
#include <algorithm>

#include "sim/engine/future_rows.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const View<const float, 2> v = context.cache.read(context.layer, context.group).v;
  const std::int64_t slots = v.extent(0), dim = v.extent(1);
  std::vector<double> sum(out.s.size(), 0.0), output(static_cast<std::size_t>(dim));
  for_future_rows(context, [&](std::int64_t, std::int64_t, View<const float, 1> p, double share) {
    std::fill(output.begin(), output.end(), 0.0);
    for (std::int64_t j = 0; j < slots; ++j)
      for (std::int64_t d = 0; d < dim; ++d)
        output[static_cast<std::size_t>(d)] += static_cast<double>(p(j)) * static_cast<double>(v(j, d));
    for (std::int64_t j = 0; j < slots; ++j) {
      double distance = 0;
      for (std::int64_t d = 0; d < dim; ++d) {
        const double off = static_cast<double>(v(j, d)) - output[static_cast<std::size_t>(d)];
        distance += off * off;
      }
      const double a = share * static_cast<double>(p(j)), odds = a / std::max(1 - a, 1e-6);
      sum[static_cast<std::size_t>(j)] += odds * odds * distance;
    }
  });
  std::transform(sum.begin(), sum.end(), out.s.begin(), [](double x) { return static_cast<float>(x); });
}

}  // namespace

extern const ScoreRow removal_error;
const ScoreRow removal_error = {
    .name = "removal_error",
    .source = "kvgrind",
    .help = "how far the outputs of the queries known to come move without the slot (an oracle)",
    .params = {},
    .needs = {Signal::queries, Signal::future_queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
