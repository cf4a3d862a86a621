// Heads that look at what followed the last time, or at the same token before: they need the far past.
//   in   tensors "induction" and "echo" [L, Hk] of a calibration
//   out  figure "retrieval" = 1 for the best round(induction · L·Hk) heads of the model by the first and the best
//        round(echo · L·Hk) by the second (half to even; ties: the earlier), 0 for the others (a group that serves
//        several KV heads: the largest); s [slots] = position
//        union=first: of the second only those of the earliest layer that has one, as the published search does
//   source: arXiv 2407.15891; mindspore-ai/golden-stick razor_attention.py
//   deviations: membership by rank, where the published search compares values (ties select more)
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

// Entries [L · Hk] among the best `share`, best first.
std::vector<std::int64_t> best(const CalibrationTensor& table, double share) {
  std::vector<std::int64_t> order(table.values.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto value = [&](std::int64_t i) { return table.values[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return value(a) > value(b); });
  order.resize(static_cast<std::size_t>(std::nearbyint(share * static_cast<double>(order.size()))));
  return order;
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  for (std::size_t j = 0; j < out.s.size(); ++j) out.s[j] = static_cast<float>(slots.position[j]);
  const ModelCard& card = *context.facts.card;
  const Calibration& fitted = context.params.calibration("calib");
  std::vector<std::int64_t> chosen =
      best(fitted.tensor("induction", {card.layers, card.kv_heads}), context.params.number("induction"));
  const std::vector<std::int64_t> echo =
      best(fitted.tensor("echo", {card.layers, card.kv_heads}), context.params.number("echo"));
  std::int64_t first = card.layers;
  for (const std::int64_t i : echo) first = std::min(first, i / card.kv_heads);
  for (const std::int64_t i : echo)
    if (context.params.word("union") == "all" || i / card.kv_heads == first) chosen.push_back(i);
  double& figure = out.figures["retrieval"];
  figure = 0;
  for (const std::int64_t i : chosen)
    if (i / card.kv_heads == context.layer &&
        (i % card.kv_heads) * context.cache.heads() / card.kv_heads <= context.group &&
        context.group * card.kv_heads / context.cache.heads() <= i % card.kv_heads)
      figure = 1;
}

}  // namespace

extern const ScoreRow echo_heads;
const ScoreRow echo_heads = {
    .name = "echo_heads",
    .source = "arXiv 2407.15891; mindspore-ai/golden-stick",
    .help = "heads that look at what followed before, or at the same token before",
    .params = {{"induction", ParamType::number, "0.14", "share of heads, by attention to what followed before", 0, 1},
               {"echo", ParamType::number, "0.01", "share of heads, by attention to the same token before", 0, 1},
               {"union",
                ParamType::word,
                "all",
                "all: both; first: of the second kind one layer, as published",
                -1e300,
                1e300,
                {"all", "first"}},
               {"calib", ParamType::calibration, "\"\"", "what kvgrind fit razor wrote", -1e300, 1e300, {"razor"}}},
    .needs = {},
    .score = score,
    .gives = {"retrieval"},
};

}  // namespace kvgrind::sim::scores
