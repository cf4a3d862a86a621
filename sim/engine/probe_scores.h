// Scores from passes over the context once more.
#pragma once
#include "core/probe.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

struct ProbeScore {
  Signal kind = Signal::repeat_probe;
  ProbeStatistic statistic = ProbeStatistic::part_max;
  bool mean = false;         // over the query heads of a group; else their maximum
  bool values = false;       // each head's column times ‖W_O,h v‖₂ (needs output_projection)
  std::int64_t number = -1;  // of the pass; −1 = the largest of all passes that measured a slot
};
// s [slots]: what the passes gave to each slot's position; slots that none measured (before or behind the context) get
// +∞: they are kept.
std::vector<float> probe_scores(const ScoreContext& context, const ProbeScore& what);

// Positions below `sinks` get +∞.
void keep_sinks(const GroupSlots& slots, std::int64_t sinks, std::vector<float>& s);

}  // namespace kvgrind::sim
