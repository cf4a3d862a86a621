// The open loop: one policy at one amount on one recorded sequence. Recorded K, V and Q are the truth; the policy's
// cache is fed with them, its slots are attended by the same kernel as the full cache, and the two are compared.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "replay/open_loop/outcome.h"
#include "replay/open_loop/protocol.h"
#include "replay/open_loop/sequence_data.h"
#include "sim/engine/policy_run.h"

namespace kvgrind::replay {

struct OpenJob {
  sim::PolicyPtr policy;
  sim::Amount amount;
  Protocol protocol = Protocol::blind;
  std::uint64_t seed = 0;
};

struct OpenOptions {
  bool token_states = false;       // fill OpenOutcome::states
  bool group_recall = false;       // fill OpenOutcome::group_recall (oracle bounds)
  CancelToken cancel;              // asked between heads and plans: then Error(interrupted)
  std::int64_t prefill_chunk = 0;  // tokens of a prefill chunk (chunk schedules see each); 0 = all in one
  std::function<void(const sim::GroupPlan&)> on_plan;                               // before each plan is applied
  std::function<void(const TallyTable&, const std::vector<MeasuredSet>&)> on_rows;  // what the figures are made of
  // After prefill, after compression, and whenever all layers have seen further tokens and what they set off is done.
  // Changes no figure: where it may, a tail that no event interrupts is fed in pieces, and measured as before.
  std::function<void(std::int64_t seen, const sim::CacheState&)> on_tokens;
};

// Thread-safe; the outcome depends on the arguments alone.
OpenOutcome run_open(const SequenceData& data, const OpenJob& job, const OpenOptions& options = {});

// Largest kept_mass − oracle_mass over all (group, query): ≤ rounding for every policy that neither merges nor codes.
double oracle_excess(const std::vector<GroupRecall>& recall);

}  // namespace kvgrind::replay
