// Belady's oracle: the slot that is looked at soonest is worth most.
//   in   q of the queries known to come, keys of the slots, the full cache's log Σ exp when known
//   out  s [slots] = −(queries until one gives the slot more than `above` of its attention, in any query head of the
//        group); never: less than any
//   source: kvgrind, after L. A. Belady, A study of replacement algorithms for a virtual-storage computer (1966)
#include <algorithm>

#include "sim/engine/future_rows.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const auto [begin, end] = context.signals.future(context.moment.tokens);
  double above = context.params.number("above");
  if (above <= 0) above = 1.0 / static_cast<double>(std::max<std::int64_t>(1, context.moment.tokens));
  std::vector<std::int64_t> use(out.s.size(), end - begin);
  for_future_rows(context, [&](std::int64_t, std::int64_t query, View<const float, 1> p, double share) {
    for (std::size_t j = 0; j < use.size(); ++j)
      if (share * static_cast<double>(p(static_cast<std::int64_t>(j))) > above) use[j] = std::min(use[j], query);
  });
  std::transform(use.begin(), use.end(), out.s.begin(), [](std::int64_t n) { return -static_cast<float>(n); });
}

}  // namespace

extern const ScoreRow next_use;
const ScoreRow next_use = {
    .name = "next_use",
    .source = "kvgrind, after Belady 1966",
    .help = "how soon a query known to come looks at the slot (an oracle)",
    .params = {{"above", ParamType::number, "0", "attention that counts as a look; 0 = one over the tokens seen", 0,
                1}},
    .needs = {Signal::queries, Signal::future_queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
