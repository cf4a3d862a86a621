// A recording plan as JSON: what kvg_open takes. Read by both ends; needs no HDF5.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/sequence.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::traces {

// The shapes that the feeding end needs of a card.
struct PlanShape {
  std::int64_t layers = 0, query_heads = 0, kv_heads = 0, head_dim = 0;
  DType dtype = DType::f32;
};

struct RecordingPlanJson {
  json::object card;
  PlanShape shape;
  std::vector<TokenSequence> sequences;
  std::int64_t spare_sequences = 0;
  RecordOptions options;
  bool statistics = false;  // the writer computes column sums, query statistics and maps
  bool wait = true;         // opening waits until the file is there
  json::object provenance;
};

// Error(damaged) naming the place.
RecordingPlanJson parse_plan_json(std::string_view text);
TokenSequence parse_sequence_json(const json::value& value, const std::string& place);

}  // namespace kvgrind::traces
