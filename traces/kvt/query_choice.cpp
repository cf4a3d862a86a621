// Needs no HDF5: sources that choose queries before they leave the device use it too.
#include "traces/kvt/query_choice.h"

#include "core/rng.h"

namespace kvgrind::traces {

QueryChoice::QueryChoice(const RecordOptions& options, const TokenSequence& sequence, std::int64_t id)
    : content_(options.queries),
      window_(options.query_window),
      stratum_(1),
      id_(id),
      own_end_(sequence.fork_at + static_cast<std::int64_t>(sequence.ids.size())),
      segments_(sequence.segments) {
  if (options.query_sample_share > 0.0 && options.query_sample_share < 1.0)
    stratum_ = static_cast<std::int64_t>(1.0 / options.query_sample_share + 0.5);
  if (options.query_sample_share <= 0.0) stratum_ = 0;
}

bool QueryChoice::keeps(std::int64_t position, bool decode) const {
  if (content_ == QueryContent::all) return true;
  if (content_ == QueryContent::none) return false;
  if (decode || position >= own_end_) return true;
  bool inside = false;
  for (const Segment& s : segments_) {
    if (position < s.begin || position >= s.end) continue;
    inside = true;
    if (s.role == Role::answer || s.role == Role::generated || position >= s.end - window_) return true;
  }
  if (!inside && position >= own_end_ - window_) return true;
  if (content_ != QueryContent::sample || stratum_ == 0) return false;
  const RandomKey key{.seed = 0, .sequence = id_, .layer = 0, .head = 0, .name = "query_sample"};
  const std::uint64_t pick = random_bits(key, position / stratum_) % static_cast<std::uint64_t>(stratum_);
  return position % stratum_ == static_cast<std::int64_t>(pick);
}

}  // namespace kvgrind::traces
