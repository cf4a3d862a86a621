// One policy at one amount on one sequence: sees events, asks signals, answers with plans that it applies to its cache.
// The same object serves the open and the closed loop.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sim/engine/cache_state.h"
#include "sim/engine/policy.h"
#include "sim/engine/signals.h"

namespace kvgrind::sim {

class ScoreStore;

struct RunSetup {
  PolicyPtr policy;
  Amount amount;
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;
  ScoreStore* scores = nullptr;  // of the sequence, shared by runs with equal signals; null = none
};

// The slots that a query may read, per cache head: indices into the group's slots, ascending. Empty optional = all.
struct ReadPlan {
  bool all = true;
  // [heads][queries] slot indices
  std::vector<std::vector<std::vector<std::int32_t>>> slots;
};

class PolicyRun {
 public:
  PolicyRun(const RunSetup& setup, const SignalSource& signals, CacheState& cache);
  // Goes on as `other` would, over signals and a cache that are copies of what `other` has.
  PolicyRun(const PolicyRun& other, const SignalSource& signals, CacheState& cache);
  ~PolicyRun();
  PolicyRun(PolicyRun&&) noexcept;

  // Events, in the order things happen. Tokens are positions [first, first + n).
  ReadPlan read(std::int64_t layer, std::int64_t first, View<const float, 3> q);  // q [n, Hq, D]; before attention
  void layer_done(std::int64_t layer, std::int64_t first, std::int64_t n);
  void chunk_done(std::int64_t first, std::int64_t n);  // all layers have seen these tokens (prefill)
  void step_done(std::int64_t position);                // all layers have seen this one token (decode)
  // A segment ended at `end`; compress = the protocol's compression moment.
  void segment_end(Role role, std::int64_t end, bool compress);

  std::int64_t slots_called()
      const;  // how often score/select, or a read that chooses, ran: proves that the normal path ran
  std::int64_t nan_scores() const;  // NaN scores met (sorted last)
  // Requested and effective count of the last firing, per (layer, group): [L · heads]
  const std::vector<std::int64_t>& requested() const;
  const std::vector<std::int64_t>& effective() const;
  // Receives every plan just before it is applied (tests, GUI).
  void on_plan(std::function<void(const GroupPlan&)> observer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::sim
