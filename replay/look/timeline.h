// What a job's cache held as tokens came: bytes by kind and tier, counts per group, the state of every token.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sim/engine/cache_state.h"

namespace kvgrind::replay {

// Adds up to the ledger's stored bytes of K and V, exactly.
struct MemoryBytes {
  std::int64_t exact = 0;     // full-precision slots on the device
  std::int64_t coded = 0;     // information of coded slots on the device
  std::int64_t overhead = 0;  // scales, indices, page rounding, windows
  std::int64_t host = 0, disk = 0;
  std::int64_t total() const { return exact + coded + overhead + host + disk; }
};

struct TimelineStep {
  std::int64_t seen = 0;  // tokens fed
  MemoryBytes bytes;
  std::int64_t stored_bytes = 0, full_bytes = 0, touched_bytes = 0, moved_bytes = 0;  // of the ledger
  std::vector<std::int32_t> slots;                                                    // [L · heads] slots per group
  std::shared_ptr<const std::vector<std::uint8_t>> k_states;  // [L · heads · seen] as in plans.h5; null: thinned out
};

struct Timeline {
  std::int64_t layers = 0, heads = 0;  // heads of the cache: Hk, or Hq
  std::int64_t compress_at = 0;
  std::vector<TimelineStep> steps;  // prefill done, compressed, then as tokens came
  std::size_t compressed = 0;       // index of the step just after compression
  std::uint8_t state(const TimelineStep& step, std::int64_t group, std::int64_t token) const {
    return (*step.k_states)[static_cast<std::size_t>(group * step.seen + token)];
  }
  // The step that holds states and has seen at most `seen` tokens (the first that has states, if none).
  const TimelineStep* at(std::int64_t seen) const;
};

// An observer for OpenOptions::on_tokens that fills `timeline`; it thins steps and states out for long tails.
std::function<void(std::int64_t, const sim::CacheState&)> timeline_observer(Timeline& timeline, std::int64_t moment,
                                                                            std::int64_t tokens);

MemoryBytes memory_bytes(const sim::CacheState& cache, const sim::Ledger& ledger);

}  // namespace kvgrind::replay
