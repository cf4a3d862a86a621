#include "replay/closed_loop/probe_store.h"

#include "replay/probe/probe_tap.h"

namespace kvgrind::replay {

void run_probes(const ProbeRun& run, const ProbedContext& context, ProbePlan plan, ProbeKind kind, ProbeStore& out) {
  const ModelCard& card = sim::model_config(run.model).card;
  plan.repeat = kind == ProbeKind::repeat;
  plan.reread = kind == ProbeKind::reread;
  plan.episode = kind == ProbeKind::episode;
  if (!plan.episodes.embed) plan.episodes.embed = mean_embedding(sim::token_embedding(run.model));
  const std::vector<ProbePass> passes = plan_probes(context, plan);
  check_probes(card, passes);
  auto& columns = out.columns[kind];
  columns.resize(static_cast<std::size_t>(card.layers * card.query_heads));
  for (const ProbePass& pass : passes) {
    sim::CacheState cache(run.context);
    ProbeTap tap(card, pass, cache);
    run_probe(pass, cache, tap, run.chunk, [&](const sim::Feed& feed) {
      (void)sim::forward(run.model, {&feed, 1}, run.options);
    });
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t h = 0; h < card.query_heads; ++h)
        columns[static_cast<std::size_t>(l * card.query_heads + h)].push_back(tap.columns(l, h));
    out.fed_tokens[kind] += pass.fed;
  }
}

}  // namespace kvgrind::replay
