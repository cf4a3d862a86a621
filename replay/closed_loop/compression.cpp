#include "replay/closed_loop/compression.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "sim/engine/bound_policy.h"

namespace kvgrind::replay {
namespace {

// Keys or values of all heads of a layer at positions [first, first + n).
Array<float, 3> rows_of(const sim::CacheState& full, std::int64_t layer, std::int64_t first, std::int64_t n,
                        bool values) {
  const std::int64_t dim = full.card().head_dim;
  Array<float, 3> out({n, full.heads(), dim});
  for (std::int64_t head = 0; head < full.heads(); ++head) {
    const sim::GroupSlots& slots = full.group(layer, head);
    const View<const float, 2> from = values ? slots.values() : slots.keys();
    for (std::int64_t t = 0; t < n; ++t)
      for (std::int64_t d = 0; d < dim; ++d) out(t, head, d) = from(first + t, d);
  }
  return out;
}

void require_whole(const sim::BoundPolicy& policy, const sim::CacheState& full) {
  for (std::int64_t layer = 0; layer < full.layers(); ++layer)
    if (full.group(layer, 0).size() != full.tokens(layer))
      throw Error(Category::usage, {.doing = "showing a prefix chunk by chunk",
                                    .on = sim::typed_text(policy),
                                    .found = fmt::format("layer {} whose attention window holds {} of {} tokens", layer,
                                                         full.group(layer, 0).size(), full.tokens(layer)),
                                    .expected = "layers that hold all of them",
                                    .next = "--compressed-prefill"});
}

}  // namespace

bool decides_in_prefill(const sim::BoundPolicy& policy) {
  return sim::wanted_chunk(policy) > 0 || policy.schedule_row().layers;
}

sim::CacheState cache_at_start(const sim::BoundPolicy& policy, const sim::CacheState& full) {
  const sim::Granularity heads = sim::cache_granularity(policy);
  if (sim::wanted_chunk(policy) <= 0) return {full, heads};
  require_whole(policy, full);
  return sim::CacheState(full.card(), heads);
}

void compress(const sim::BoundPolicy& policy, PolicyCache& cache, const sim::CacheState& full,
              const PrefixShape& prefix) {
  const std::int64_t wanted = sim::wanted_chunk(policy), layers = full.layers();
  const std::int64_t chunk = wanted > 0 ? wanted : prefix.tokens;
  bool context_ended = false;
  const auto end_context = [&](std::int64_t until) {
    if (context_ended || prefix.tokens == prefix.context || prefix.context > until) return;
    cache.run().segment_end(Role::context, prefix.context, false);
    context_ended = true;
  };
  for (std::int64_t first = 0; first < prefix.tokens;) {
    const std::int64_t n = std::min(chunk, prefix.tokens - first);
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      if (wanted > 0)
        cache.append(layer, first, rows_of(full, layer, first, n, false).view(),
                     rows_of(full, layer, first, n, true).view());
      cache.run().layer_done(layer, first, n);
    }
    cache.run().chunk_done(first, n);
    first += n;
    end_context(first);
  }
  cache.run().segment_end(prefix.role, prefix.tokens, true);
}

void compress_running(const sim::BoundPolicy& policy, PolicyCache& cache, LiveSignals& signals, const PrefillRun& run,
                      const PrefixShape& prefix) {
  const std::int64_t wanted = sim::wanted_chunk(policy);
  const std::int64_t chunk = wanted > 0 ? wanted : std::max<std::int64_t>(64, run.chunk);
  signals.set_full_cache(&cache.state());  // until the first decision
  for (std::int64_t at = 0; at < prefix.tokens;) {
    const std::int64_t stop =
        at < prefix.context ? std::min(prefix.context, at + chunk) : std::min(prefix.tokens, at + chunk);
    const sim::Feed feed{.sequence = run.sequence,
                         .first = at,
                         .ids = run.ids.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(stop - at)),
                         .cache = &cache,
                         .tap = &signals};
    (void)sim::forward(run.model, std::span(&feed, 1), run.options);
    cache.run().chunk_done(at, stop - at);
    if (stop == prefix.context && prefix.tokens > prefix.context)
      cache.run().segment_end(Role::context, prefix.context, false);
    at = stop;
  }
  cache.run().segment_end(prefix.role, prefix.tokens, true);
}

}  // namespace kvgrind::replay
