// dKV-Cache: a token's K and V are stored one step after it was decoded; until then, and at every refresh, they are
// computed again.
//   now = tokens since the first firing. A later token is decoded at step position − prompt, a prompt token before
//   all steps, unless a span of kind "decoded" gives a step in its label (a block whose tokens are unmasked in any
//   order). Cached: step < now − delay. Every `refresh` firings everything that is stored is computed again
//   source: arXiv 2505.15781; horseee/dKV-Cache generation_utils/llada_dkv_cache_decode.py
#include <charconv>

#include "sim/engine/primitive.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::acts {
namespace {

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  std::vector<float>& mark = context.memory["delayed"];  // prompt length, firings
  if (mark.empty()) mark = {static_cast<float>(context.moment.tokens), 0.0f};
  const auto prompt = static_cast<std::int64_t>(mark[0]), firing = static_cast<std::int64_t>(mark[1]);
  ++mark[1];
  std::vector<std::int64_t> step;
  for (const std::int64_t position : slots.position)
    step.push_back(position < prompt ? -(1LL << 40) : position - prompt);
  if (context.signals.has(Signal::spans))
    for (const Span& span : context.signals.spans()) {
      std::int64_t label = 0;
      if (span.kind != "decoded") continue;
      std::from_chars(span.label.data(), span.label.data() + span.label.size(), label);
      for (std::size_t j = slots_below(slots, span.begin); j < slots_below(slots, span.end); ++j) step[j] = label;
    }
  const std::int64_t now = context.moment.tokens - prompt, refresh = context.params.integer("refresh");
  plan.recompute.assign(plan.keep.size(), 0);
  for (std::size_t i = 0; i < plan.keep.size(); ++i) {
    const bool stored = step[i] < now - context.params.integer("delay");
    const bool gone = slots.k_state[i].content == Content::recomputable;
    if (!stored)
      plan.recompute[i] = gone ? 0 : 1;
    else if (gone || (refresh > 0 && firing > 0 && firing % refresh == 0))
      plan.recompute[i] = 2;
  }
}

}  // namespace

extern const ActRow delayed;
const ActRow delayed = {
    .name = "delayed",
    .source = "arXiv 2505.15781; horseee/dKV-Cache",
    .help = "K and V are stored some steps after a token was decoded, and refreshed now and then",
    .params = {{"delay", ParamType::integer, "1", "steps until a decoded token is stored; 0 = at once", 0, 1e6},
               {"refresh", ParamType::integer, "8", "firings between refreshes; 0 = never", 0, 1e9}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
