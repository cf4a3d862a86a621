// Groups that compete for slots by score.
#pragma once
#include <cstdint>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// The best `count` of all groups' scores from place `skip` of each group's own order on, counted by group. NaN last;
// ties: the earlier group, then the earlier slot.
std::vector<std::int64_t> share_out(const std::vector<BudgetGroup>& groups, const std::vector<std::int64_t>& skip,
                                    std::int64_t count);

}  // namespace kvgrind::sim
