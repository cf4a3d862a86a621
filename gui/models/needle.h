// How one span (a needle) fares: attention on it, and what each policy still holds of it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "gui/models/table.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

struct NeedleJob {
  std::string name, verdict;
  std::size_t colour = 0;
  std::vector<std::int64_t> seen;        // steps
  std::vector<std::vector<float>> kept;  // [steps][layers] share of the span's tokens kept, mean over heads
  std::int64_t first_loss = -1;          // tokens seen when some head first lost a token of it
};
// A span of the same kind, and what each job of `NeedleData::jobs` still holds of it at the end (NaN: not known).
struct SpanFate {
  Span span;
  std::vector<double> kept;
};
struct NeedleData {
  Span span;
  std::size_t chosen = 0;     // which of `all` it is
  std::vector<SpanFate> all;  // spans of its kind, by position
  replay::SpanMass mass;
  std::vector<NeedleJob> jobs;
  bool found = false;
};
// The needle of the sequence that holds key_at, else its first needle, else its first span.
NeedleData needle_data(const ViewInput& input, std::int64_t most_queries, const CancelToken& cancel);
Table needle_table(const NeedleData& data);

}  // namespace kvgrind::gui
