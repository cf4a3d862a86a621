#include "sim/engine/share_out.h"

#include <algorithm>
#include <cmath>

#include "kernels/rank/rank.h"

namespace kvgrind::sim {
namespace {

struct Candidate {
  float score = 0;
  std::size_t group = 0;
};

bool better(float a, float b) {  // NaN last
  return !std::isnan(a) && (std::isnan(b) || a > b);
}

}  // namespace

std::vector<std::int64_t> share_out(const std::vector<BudgetGroup>& groups, const std::vector<std::int64_t>& skip,
                                    std::int64_t count) {
  std::vector<Candidate> all;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto order = kernels::rank_order(groups[g].scores);
    for (auto i = static_cast<std::size_t>(skip[g]); i < order.size(); ++i)
      all.push_back({groups[g].scores[static_cast<std::size_t>(order[i])], g});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Candidate& a, const Candidate& b) { return better(a.score, b.score); });
  std::vector<std::int64_t> out(groups.size());
  for (std::size_t i = 0; i < all.size() && static_cast<std::int64_t>(i) < count; ++i) ++out[all[i].group];
  return out;
}

}  // namespace kvgrind::sim
