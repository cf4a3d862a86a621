#include "replay/open_loop/attend.h"

#include <algorithm>

#include "kernels/attention/attention.h"

namespace kvgrind::replay {
namespace {

// Rows [row, row + n) of the queries over slots [begin, end); p's other entries stay.
void attend_part(const AttendInput& in, std::int64_t row, std::int64_t n, std::int64_t begin, std::int64_t end,
                 View<float, 2> p, View<float, 2> out) {
  const ModelCard& card = in.card;
  kernels::AttentionParams params;
  params.q = in.q.slice(row, n);
  params.q_position = in.position.subspan(static_cast<std::size_t>(row), static_cast<std::size_t>(n));
  params.k = in.slots.k.slice(begin, end - begin);
  params.v = in.slots.v.slice(begin, end - begin);
  params.k_position = in.slots.position.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  params.log_count = in.slots.log_count ? in.slots.log_count + begin : nullptr;
  params.scale = card.scale;
  params.softcap = card.softcap;
  params.window = card.layer[static_cast<std::size_t>(in.layer)].window;
  if (!card.sinks.empty())
    params.sink = &card.sinks[static_cast<std::size_t>(in.layer * card.query_heads + in.query_head)];
  params.out = out.slice(row, n);
  params.probabilities = [&](std::int64_t first, View<const float, 2> rows) {
    for (std::int64_t i = 0; i < rows.extent(0); ++i)
      if (rows.extent(1) > 0) std::copy_n(&rows(i, 0), rows.extent(1), &p(row + first + i, begin));
  };
  kernels::attention(params);
}

}  // namespace

void attend(const AttendInput& in, View<float, 2> p, View<float, 2> out) {
  const std::int64_t n = in.q.extent(0), slots = in.slots.k.extent(0);
  const std::int64_t window = in.card.layer[static_cast<std::size_t>(in.layer)].window;
  if (window == 0) return attend_part(in, 0, n, 0, slots, p, out);
  const auto& position = in.slots.position;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t at = in.position[static_cast<std::size_t>(i)];
    const auto begin = std::upper_bound(position.begin(), position.end(), at - window) - position.begin();
    const auto end = std::upper_bound(position.begin(), position.end(), at) - position.begin();
    if (slots > 0) std::fill_n(&p(i, 0), slots, 0.0f);
    attend_part(in, i, 1, begin, end, p, out);
  }
}

}  // namespace kvgrind::replay
