// CaM: a dropped value is spread over the next kept values, with a probability by its attention.
//   in   a = newest query's attention, mean over the group's query heads, over the slots before the plan
//   p = a_e / mean of a over the kept slots after e, cut to [0, 1] (0/0 = 0; x/0 = 1); M ~ Bernoulli(p),
//   stochastic=off: M = p; the next m kept slots after e: v += M v_e / m each (count += M/m each); keys stay source:
//   ICML 2024 "CaM"; zyxxmu/cam cam_hf/utils_hh/modify_llama_cam.py deviations: targets are the next kept slots where
//   others leave in the same plan; one draw a cache head, by position
#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "sim/engine/primitive.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  const auto& kept = context.selection.kept;
  if (kept.size() == plan.keep.size() || kept.empty()) return;
  const auto m = static_cast<std::size_t>(context.params.integer("m"));
  const ScoreContext rows{context.params, context.facts, context.moment, context.signals,
                          context.cache,  context.layer, context.group,  context.memory};
  const Array<float, 2> a = mean_attention(rows, context.moment.tokens - 1, 1);
  std::vector<double> after(kept.size() + 1, 0.0);  // Σ a over kept slots from here on
  for (std::size_t i = kept.size(); i-- > 0;) after[i] = after[i + 1] + static_cast<double>(a(0, kept[i]));
  const RandomKey key{context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer),
                      static_cast<std::int32_t>(context.group), "merge_next"};
  for (std::int32_t e = 0; e < static_cast<std::int32_t>(plan.keep.size()); ++e) {
    if (plan.keep[static_cast<std::size_t>(e)]) continue;
    const auto first = static_cast<std::size_t>(std::lower_bound(kept.begin(), kept.end(), e) - kept.begin());
    if (first == kept.size()) continue;
    const double mean = after[first] / static_cast<double>(kept.size() - first), own = a(0, e);
    double weight = own <= 0 ? 0.0 : mean <= 0 ? 1.0 : std::min(1.0, own / mean);
    if (context.params.boolean("stochastic"))
      weight = static_cast<double>(random_uniform(key, slots.position[static_cast<std::size_t>(e)])) < weight ? 1 : 0;
    if (weight == 0) continue;
    const std::size_t last = std::min(kept.size(), first + m);
    for (std::size_t t = first; t < last; ++t) {
      const auto part = static_cast<float>(weight / static_cast<double>(m));
      plan.merges.push_back({e, kept[t], 0.0f, part, part});
    }
  }
}

}  // namespace

extern const ActRow merge_next;
const ActRow merge_next = {
    .name = "merge_next",
    .source = "ICML 2024 (CaM); zyxxmu/cam",
    .help = "a dropped value is spread over the next kept values, by chance of its attention",
    .params = {{"m", ParamType::integer, "32", "kept slots that share a dropped value", 1, 65536},
               {"stochastic", ParamType::boolean, "on", "draw; off: the expected value"}},
    .needs = {Signal::queries},
    .act = act,
};

}  // namespace kvgrind::sim::acts
