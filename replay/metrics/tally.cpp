#include "replay/metrics/tally.h"

#include <algorithm>
#include <cassert>

namespace kvgrind::replay {
namespace {

// Calls f(begin, end, near, context) for the stretches of keys of one kind in [0, query], in key order.
template <class F>
void stretches(std::int64_t query, ContextKeys context, F&& f) {
  const std::int64_t first_near = query - near_distance + 1;
  for (std::int64_t at = 0; at <= query;) {
    std::int64_t stop = query + 1;
    for (const std::int64_t border : {first_near, context.begin, context.end})
      if (border > at) stop = std::min(stop, border);
    f(at, stop, at >= first_near, at >= context.begin && at < context.end);
    at = stop;
  }
}

}  // namespace

RowTally tally_reference(std::span<const float> reference, std::int64_t query, ContextKeys context) {
  assert(query < static_cast<std::int64_t>(reference.size()));
  RowTally out;
  stretches(query, context, [&](std::int64_t begin, std::int64_t end, bool near, bool counts) {
    MassTally& side = near ? out.near : out.far;
    for (std::int64_t j = begin; j < end; ++j) {
      const auto mass = static_cast<double>(reference[static_cast<std::size_t>(j)]);
      side.mass += mass;
      out.mass += mass;
      if (counts) side.strong += mass * mass;
    }
  });
  return out;
}

// Keys without a slot lose all of their a², which is `strong` less the a² of those with one: both are summed in key
// order, so a row that keeps every key loses exactly nothing.
RowTally tally_row(const RowTally& whole, const RowInput& in) {
  RowTally out = whole;
  const float* const a = in.reference.data();
  const float* const b = in.row.data();
  const std::int64_t* const slot = in.slot.data();
  const auto position = [&](std::int64_t i) { return in.slot_index ? slot[in.slot_index[i]] : slot[i]; };
  const auto first_at = [&](std::int64_t key, std::int64_t low) {  // first slot read with position ≥ key
    for (std::int64_t high = in.slots; low < high;) {
      const std::int64_t middle = (low + high) / 2;
      if (position(middle) < key)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  double there[2] = {0, 0},
         weakened[2] = {0, 0};  // Σ a², Σ a · max(a − a′, 0) over context keys with a slot: far, near
  std::int64_t next = 0;
  stretches(in.query, in.context, [&](std::int64_t, std::int64_t end, bool near, bool counts) {
    MassTally& side = near ? out.near : out.far;
    const std::int64_t stop = first_at(end, next);
    for (; next < stop; ++next) {
      const auto mass = static_cast<double>(a[position(next)]);
      side.kept += mass;
      out.kept += mass;
      if (!counts) continue;
      there[near] += mass * mass;
      weakened[near] += mass * std::max(mass - static_cast<double>(b[next]), 0.0);
    }
  });
  out.far.lost = std::max(whole.far.strong - there[0], 0.0) + weakened[0];
  out.near.lost = std::max(whole.near.strong - there[1], 0.0) + weakened[1];
  out.top = static_cast<std::int32_t>(in.top.size());
  for (const std::int32_t key : in.top) {
    const std::int64_t i = first_at(key, 0);
    out.top_kept += i < in.slots && position(i) == key;
  }
  return out;
}

}  // namespace kvgrind::replay
