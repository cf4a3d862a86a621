// Which queries a recording keeps, and over which it sums attention.
#pragma once
#include <cstdint>
#include <vector>

#include "core/sequence.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::traces {

// Which queries are kept, decided by position alone.
class QueryChoice {
 public:
  QueryChoice(const RecordOptions& options, const TokenSequence& sequence, std::int64_t id);
  bool keeps(std::int64_t position, bool decode) const;

 private:
  QueryContent content_;
  std::int64_t window_, stratum_, id_, own_end_;
  std::vector<Segment> segments_;
};

// Segments whose column sums and query statistics are kept: the first four of the sequence's own.
std::vector<Segment> recorded_segments_of(const TokenSequence& sequence);

}  // namespace kvgrind::traces
