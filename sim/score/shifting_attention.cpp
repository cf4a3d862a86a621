// CAKE: mean of attention over a window of queries plus γ times its variance, and the layer preference's two figures.
//   in   A: rows of the last w queries over the slots before them (sub-normalised: the window's mass is missing)
//   out  s [slots] = group mean of avgpool(mean_i A + γ · Var_i A); the window = +inf
//        figures of the group, summed over its query heads: entropy = −Σ A ln(A + 1e-10), shift = Σ_j Var_i A;
//        Var is unbiased, 0 for a single query
//   source: arXiv 2503.12491; antgroup/cakekv cake/utils.py, cake_cache.py
#include "kernels/pool/pool.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t window = std::min(context.params.integer("window"), tokens);
  const std::size_t past = slots_below(slots, tokens - window);
  const double gamma = context.params.number("gamma"), n = static_cast<double>(window);
  std::fill(out.s.begin() + static_cast<std::ptrdiff_t>(past), out.s.end(), always_kept);
  double entropy = 0, shift = 0;
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const Array<float, 2> a = context.attention(context.first_query_head() + h, tokens - window, window);
    std::vector<float> value(past), pooled(past);
    for (std::size_t j = 0; j < past; ++j) {
      double sum = 0, squares = 0;
      for (std::int64_t i = 0; i < window; ++i) {
        const double mass = a(i, static_cast<std::int64_t>(j));
        sum += mass;
        entropy -= mass * std::log(mass + 1e-10);
      }
      const double mean = sum / n;
      for (std::int64_t i = 0; i < window; ++i) {
        const double off = static_cast<double>(a(i, static_cast<std::int64_t>(j))) - mean;
        squares += off * off;
      }
      const double variance = window > 1 ? squares / (n - 1) : 0.0;
      shift += variance;
      value[j] = static_cast<float>(mean + gamma * variance);
    }
    if (past > 0) kernels::pool_avg(value, context.params.integer("pool"), pooled);
    head.emplace_back(pooled.begin(), pooled.end());
  }
  out.figures["entropy"] = entropy;
  out.figures["shift"] = shift;
  const std::vector<float> joined = reduce_heads(head, context.params.word("reduce"));
  std::copy(joined.begin(), joined.end(), out.s.begin());
}

}  // namespace

extern const ScoreRow shifting_attention;
const ScoreRow shifting_attention = {
    .name = "shifting_attention",
    .source = "arXiv 2503.12491; antgroup/cakekv",
    .help = "mean and variance of the last queries' attention, with the layer's entropy and shift",
    .params = {{"window", ParamType::integer, "32", "last queries that vote; always kept themselves", 1, 65536},
               {"gamma", ParamType::number, "200", "weight of the variance", 0, 1e9},
               {"pool", ParamType::integer, "5", "width of average pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
    .gives = {"entropy", "shift"},
};

}  // namespace kvgrind::sim::scores
