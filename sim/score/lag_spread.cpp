// LagKV: a partition's tokens are judged by their spread relative to the next partition's range; no attention needed.
//   in   k (post-RoPE), v of the slots [n, D]; behind the first `sinks` slots, partitions of `lag` slots
//   out  s [slots]: per part (K, V) and token, the unbiased deviation over channels of (x − lo)/(hi − lo) with lo, hi
//   the
//        channel's range in the next partition; softmax inside the partition; mean of both parts; then its rank inside
//        the partition over lag (scores=rank) or itself (scores=value). Sinks, last whole partition and tail = 1.
//        Fewer than sinks + 2·lag slots: sinks 1, the rest rising with position.
//   deviations: a channel that is constant in the next partition counts as range 1e-12 instead of dividing by zero
//   source: arXiv 2504.04704; NVIDIA/kvpress lagkv_press.py
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

// Softmax over the partition [begin, begin + lag) of the spread of x, added to `out` with weight ½.
void add_spread(View<const float, 2> x, std::int64_t begin, std::int64_t lag, std::vector<double>& out) {
  const std::int64_t dim = x.extent(1);
  std::vector<double> low(static_cast<std::size_t>(dim)), range(static_cast<std::size_t>(dim));
  for (std::int64_t d = 0; d < dim; ++d) {
    double lo = x(begin + lag, d), hi = lo;
    for (std::int64_t j = begin + lag; j < begin + 2 * lag; ++j) {
      lo = std::min(lo, static_cast<double>(x(j, d)));
      hi = std::max(hi, static_cast<double>(x(j, d)));
    }
    low[static_cast<std::size_t>(d)] = lo;
    range[static_cast<std::size_t>(d)] = std::max(hi - lo, 1e-12);
  }
  std::vector<double> spread(static_cast<std::size_t>(lag));
  for (std::int64_t j = 0; j < lag; ++j) {
    double sum = 0, squares = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto at = static_cast<std::size_t>(d);
      sum += (x(begin + j, d) - low[at]) / range[at];
    }
    const double mean = sum / static_cast<double>(dim);
    for (std::int64_t d = 0; d < dim; ++d) {
      const auto at = static_cast<std::size_t>(d);
      const double off = (x(begin + j, d) - low[at]) / range[at] - mean;
      squares += off * off;
    }
    spread[static_cast<std::size_t>(j)] = std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(1, dim - 1)));
  }
  const double top = *std::max_element(spread.begin(), spread.end());
  double total = 0;
  for (double& value : spread) total += value = std::exp(value - top);
  for (std::int64_t j = 0; j < lag; ++j)
    out[static_cast<std::size_t>(j)] += spread[static_cast<std::size_t>(j)] / total / 2;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t n = slots.size(), sinks = context.params.integer("sinks"), lag = context.params.integer("lag");
  std::fill(out.s.begin(), out.s.end(), 1.0f);
  if (n < sinks + 2 * lag) {
    for (std::int64_t j = sinks; j < n; ++j)
      out.s[static_cast<std::size_t>(j)] = static_cast<float>(j - sinks) / static_cast<float>(n);
    return;
  }
  const std::int64_t partitions = (n - sinks) / lag;
  for (std::int64_t p = 0; p + 1 < partitions; ++p) {
    const std::int64_t begin = sinks + p * lag;
    std::vector<double> spread(static_cast<std::size_t>(lag));
    add_spread(slots.keys(), begin, lag, spread);
    add_spread(slots.values(), begin, lag, spread);
    if (context.params.word("scores") == "value") {
      for (std::int64_t j = 0; j < lag; ++j)
        out.s[static_cast<std::size_t>(begin + j)] = static_cast<float>(spread[static_cast<std::size_t>(j)]);
      continue;
    }
    std::vector<std::int64_t> order(static_cast<std::size_t>(lag));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return spread[static_cast<std::size_t>(a)] < spread[static_cast<std::size_t>(b)];
    });
    for (std::int64_t rank = 0; rank < lag; ++rank)
      out.s[static_cast<std::size_t>(begin + order[static_cast<std::size_t>(rank)])] =
          static_cast<float>(rank) / static_cast<float>(lag);
  }
}

}  // namespace

extern const ScoreRow lag_spread;
const ScoreRow lag_spread = {
    .name = "lag_spread",
    .source = "arXiv 2504.04704; NVIDIA/kvpress lagkv_press.py",
    .help = "spread of keys and values relative to the next partition",
    .params =
        {{"sinks", ParamType::integer, "4", "first slots, best score", 0, 1e6},
         {"lag", ParamType::integer, "128", "slots of a partition", 1, 1e6},
         {"scores", ParamType::word, "rank", "what a partition's tokens score", -1e300, 1e300, {"rank", "value"}}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
