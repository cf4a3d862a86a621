// The cache that the runtime uses when a policy owns it: a CacheState whose PolicyRun hears every event and may choose
// what each step reads.
#pragma once
#include <vector>

#include "sim/engine/cache_state.h"
#include "sim/engine/policy_run.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::replay {

class PolicyCache final : public sim::KvCache {
 public:
  PolicyCache(sim::CacheState state, const sim::RunSetup& setup, const sim::SignalSource& signals);
  // A fork that goes on alone, with memory for `room` more tokens.
  PolicyCache(const PolicyCache& other, const sim::SignalSource& signals, std::int64_t room);
  PolicyCache(const PolicyCache&) = delete;  // the run refers to the state inside
  PolicyCache& operator=(const PolicyCache&) = delete;

  std::int64_t heads() const override { return state_.heads(); }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override;
  sim::GroupView read(std::int64_t layer, std::int64_t head) const override;
  void before_attention(std::int64_t layer, std::int64_t first, View<const float, 3> q) override;
  void layer_done(std::int64_t layer, std::int64_t first, View<const float, 3> q) override;

  sim::PolicyRun& run() { return run_; }
  const sim::CacheState& state() const { return state_; }

 private:
  struct Gathered {  // one cache head's chosen slots, when a read policy does not read all
    std::vector<float> k, v, log_count;
    std::vector<std::int64_t> position;
  };
  sim::CacheState state_;
  sim::PolicyRun run_;
  bool reads_all_ = true;
  std::vector<Gathered> gathered_;  // [heads] of the layer in work
};

}  // namespace kvgrind::replay
