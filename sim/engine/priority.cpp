#include "sim/engine/priority.h"

#include <algorithm>
#include <limits>

#include "kernels/rank/rank.h"

namespace kvgrind::sim {

std::vector<std::int32_t> priority_order(const GroupSlots& slots, std::span<const float> score,
                                         const Protection& protection, std::int64_t& nan_scores) {
  const std::int64_t n = slots.size();
  std::vector<std::int32_t> order;
  order.reserve(static_cast<std::size_t>(n));
  std::vector<std::uint8_t> taken(static_cast<std::size_t>(n), 0);
  const auto take = [&](std::int64_t slot) {
    if (taken[static_cast<std::size_t>(slot)]) return;
    taken[static_cast<std::size_t>(slot)] = 1;
    order.push_back(static_cast<std::int32_t>(slot));
  };
  if (protection.newest && n > 0) take(n - 1);
  for (std::int64_t i = 0; i < n && slots.position[static_cast<std::size_t>(i)] < protection.sink; ++i) take(i);
  for (std::int64_t i = n - 1; i >= std::max<std::int64_t>(0, n - protection.recent); --i) take(i);
  constexpr float always = std::numeric_limits<float>::infinity();
  for (std::int64_t i = n - 1; i >= 0; --i)
    if (score[static_cast<std::size_t>(i)] == always) take(i);
  std::int64_t nans = 0;
  for (const std::int32_t slot : kernels::rank_order(score, &nans)) take(slot);
  nan_scores += nans;
  return order;
}

Selection take_first(std::vector<std::int32_t> order, std::int64_t budget) {
  Selection out;
  const auto count =
      static_cast<std::size_t>(std::clamp<std::int64_t>(budget, 0, static_cast<std::int64_t>(order.size())));
  // By marks, which is quicker than sorting. An order may leave slots out.
  const auto slots = order.empty() ? 0 : static_cast<std::size_t>(*std::max_element(order.begin(), order.end())) + 1;
  std::vector<std::uint8_t> chosen(slots, 0);
  for (std::size_t i = 0; i < count; ++i) chosen[static_cast<std::size_t>(order[i])] = 1;
  out.kept.reserve(count);
  for (std::size_t slot = 0; slot < chosen.size(); ++slot)
    if (chosen[slot]) out.kept.push_back(static_cast<std::int32_t>(slot));
  out.order = std::move(order);
  return out;
}

}  // namespace kvgrind::sim
