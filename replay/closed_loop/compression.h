// How a policy's cache comes to its compression moment: the prefix passes by as the full run had it, or the model runs
// it anew through that very cache.
#pragma once
#include <cstdint>
#include <span>

#include "core/sequence.h"
#include "replay/closed_loop/live_signals.h"
#include "replay/closed_loop/policy_cache.h"

namespace kvgrind::replay {

// The tokens before the compression moment: a context, and behind it perhaps a question.
struct PrefixShape {
  std::int64_t context = 0, tokens = 0;
  Role role = Role::context;  // of the segment that ends at the moment
};

// Whether the policy may decide before the compression moment. One that may not leaves prefill alone.
bool decides_in_prefill(const sim::BoundPolicy& policy);

// The cache to begin with, and the events up to the moment. `full` holds the uncompressed prefix. A policy that wants
// chunks sees the prefix's keys and values chunk by chunk. Error(usage): it wants chunks, and an attention window has
// let go of the first ones.
sim::CacheState cache_at_start(const sim::BoundPolicy& policy, const sim::CacheState& full);
void compress(const sim::BoundPolicy& policy, PolicyCache& cache, const sim::CacheState& full,
              const PrefixShape& prefix);

// The model runs ids [prefix.tokens] through the policy's own, empty cache, `chunk` tokens at a time (the policy's wish
// goes first); each chunk reads what the policy kept of the chunks before.
struct PrefillRun {
  const sim::Model& model;
  const sim::RunOptions& options;
  std::int64_t sequence = 0;
  std::span<const std::int32_t> ids;
  std::int64_t chunk = 512;
};
void compress_running(const sim::BoundPolicy& policy, PolicyCache& cache, LiveSignals& signals, const PrefillRun& run,
                      const PrefixShape& prefix);

}  // namespace kvgrind::replay
