// What one query of one head lost: the sums that the figures are made of. Formulas in replay/metrics/README.md.
#pragma once
#include <cstdint>
#include <span>

namespace kvgrind::replay {

constexpr std::int64_t near_distance = 64;  // near: query − key < 64
constexpr std::int64_t excluded_first = 4;  // positions [0, 4) do not count as look-ups

struct MassTally {
  double mass = 0;    // Σ a
  double kept = 0;    // Σ a over keys the policy's query could read
  double lost = 0;    // Σ a · max(a − a′, 0) over context keys
  double strong = 0;  // Σ a² over context keys
};
struct RowTally {
  MassTally near, far;
  double mass = 0, kept = 0;           // near and far together, summed in key order
  std::int32_t top_kept = 0, top = 0;  // of the reference's largest keys
};

// Keys that count as look-ups: positions [begin, end).
struct ContextKeys {
  std::int64_t begin = 0, end = 0;
};

// What the full cache's row alone says: mass and strong. No policy changes it.
RowTally tally_reference(std::span<const float> reference, std::int64_t query, ContextKeys context);

struct RowInput {
  std::span<const float> reference;  // a [T]: softmax over the full cache; zero where not visible
  std::int64_t query = 0;            // position
  ContextKeys context;
  std::span<const std::int32_t> top;         // keys of the reference's largest probabilities
  std::span<const std::int64_t> slot;        // positions of the slots, ascending
  const std::int32_t* slot_index = nullptr;  // null: all slots are read; else the i-th slot read is slot[slot_index[i]]
  std::int64_t slots = 0;                    // how many are read
  std::span<const float> row;                // a′ of the slots read, in the same order
};
// `whole` is tally_reference of the same row. Costs the slots read, not the keys there are.
RowTally tally_row(const RowTally& whole, const RowInput& in);

}  // namespace kvgrind::replay
