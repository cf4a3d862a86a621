// Two policies held against each other, token by token and group by group.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "gui/models/kept.h"

namespace kvgrind::gui {

enum class Agreement : std::uint8_t { neither, both, only_a, only_b, unseen };
const char* agreement_name(Agreement agreement);

struct Disagreement {
  std::int64_t layer = 0, head = 0, token = 0;
  bool a_keeps = false;
  double mass = 0;  // attention the key received, mean of a query over the group's heads
};
struct PolicyDiff {
  KeptBand a, b;
  std::int64_t only_a = 0, only_b = 0, both = 0, neither = 0;
  double lost_a = 0, lost_b = 0;    // received mass on what the one dropped and the other kept, mean over groups
  bool estimated = false;           // masses from some queries, scaled up: their sums were not recorded
  std::vector<Disagreement> worst;  // by mass, at most `most`
  Agreement at(std::int64_t group, std::int64_t token) const;
};
// Error(usage) when the two work at different granularity.
PolicyDiff policy_diff(const ViewInput& input, std::size_t most, const CancelToken& cancel);
Table diff_table(const PolicyDiff& diff, const std::vector<std::string>& text);

}  // namespace kvgrind::gui
