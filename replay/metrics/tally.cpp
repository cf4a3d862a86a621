#include "replay/metrics/tally.h"

#include <algorithm>
#include <cassert>

namespace kvgrind::replay {

RowTally tally_row(const RowInput& in) {
  assert(in.query < static_cast<std::int64_t>(in.reference.size()));
  RowTally out;
  const float* const a = in.reference.data();
  const float* const b = in.row.data();
  const std::int64_t* const slot = in.slot.data();
  const auto position = [&](std::int64_t i) { return in.slot_index ? slot[in.slot_index[i]] : slot[i]; };
  const std::int64_t first_near = in.query - near_distance + 1;
  std::int64_t next = 0;
  std::int64_t next_position = in.slots > 0 ? position(0) : in.query + 1;
  const auto walk = [&](std::int64_t begin, std::int64_t end, bool context, MassTally& side) {
    for (std::int64_t j = begin; j < end; ++j) {
      const auto mass = static_cast<double>(a[j]);
      double other = 0;
      side.mass += mass;
      out.mass += mass;
      if (j == next_position) {
        side.kept += mass;
        out.kept += mass;
        other = static_cast<double>(b[next]);
        ++next;
        next_position = next < in.slots ? position(next) : in.query + 1;
      }
      if (context) {
        side.lost += mass * std::max(mass - other, 0.0);
        side.strong += mass * mass;
      }
    }
  };
  // Stretches of keys of one kind, in key order.
  const std::int64_t end = in.query + 1;
  std::int64_t at = 0;
  while (at < end) {
    const bool near = at >= first_near, context = at >= in.context_begin && at < in.context_end;
    std::int64_t stop = end;
    for (const std::int64_t border : {first_near, in.context_begin, in.context_end})
      if (border > at) stop = std::min(stop, border);
    walk(at, stop, context, near ? out.near : out.far);
    at = stop;
  }
  for (const std::int32_t key : in.top) {
    ++out.top;
    std::int64_t low = 0, high = in.slots;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      (position(middle) < key ? low : high) = position(middle) < key ? middle + 1 : middle;
    }
    if (low < in.slots && position(low) == key) ++out.top_kept;
  }
  return out;
}

}  // namespace kvgrind::replay
