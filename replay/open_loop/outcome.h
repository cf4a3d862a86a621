// What one job of the open loop found.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/sequence.h"
#include "replay/metrics/metrics.h"

namespace kvgrind::replay {

// How well one span survived.
struct SpanOutcome {
  Span span;
  double kept_frac = 0;                     // tokens of the span kept at the end, mean over groups
  double kept_worst_frac = 0;               // in the group that kept least of it
  double kept_somewhere_frac = 0;           // tokens kept in at least one group
  std::int64_t first_loss = -1;             // tokens seen when some group first lost one of its tokens; −1 = never
  std::int64_t first_loss_everywhere = -1;  // when a token of it was first in no group any more
};

struct CountSummary {
  double mean = 0;
  std::int64_t min = 0, max = 0;
};

// Mass that one group's queries kept, and the most any set of as many tokens could have kept (oracle_step).
struct GroupRecall {
  std::int64_t layer = 0, group = 0, position = 0;  // of the query
  std::int64_t count = 0;                           // visible slots the query read
  double kept_mass = 0, oracle_mass = 0, mass = 0;  // summed over the group's query heads
};

struct OpenOutcome {
  std::int64_t compress_at = 0;                                    // tokens seen at the compression moment
  CountSummary requested, effective;                               // of the policy's last firing, over (layer, group)
  CountSummary kept_at_moment, kept_at_end;                        // slots per group
  double kept_frac = 1;                                            // kept_at_moment.mean / compress_at
  std::int64_t full_bytes = 0, stored_bytes = 0, ideal_bytes = 0;  // at the compression moment
  std::int64_t full_end_bytes = 0, stored_end_bytes = 0;           // after the last token
  std::int64_t touched_bytes = 0;  // read by the last measured step over all layers, what helped to choose included
  std::int64_t moved_bytes = 0;    // between tiers, by the last step
  std::int64_t slots_called = 0, nan_scores = 0;
  MetricMap metrics;
  std::vector<std::string> not_measured;  // "E: output_projection was not recorded"
  std::vector<SpanOutcome> spans;
  std::vector<std::vector<std::vector<std::uint8_t>>> k_states, v_states;  // [L][heads][T]
  std::int64_t state_heads = 0;  // Hk, or Hq when the policy works per query head
  std::vector<GroupRecall> group_recall;

  double stored_frac() const { return full_bytes > 0 ? double(stored_bytes) / double(full_bytes) : 1.0; }
  double touched_frac() const { return full_end_bytes > 0 ? double(touched_bytes) / double(full_end_bytes) : 1.0; }
};

}  // namespace kvgrind::replay
