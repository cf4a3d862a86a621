// What a recording will hold, worked out before the first token: layout, announced tables, provenance, which queries
// are kept, what is left out and why.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "traces/kvt/file_writer.h"
#include "traces/kvt/query_choice.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::traces {

// Number of rows the sequence will have: its ids, and one less than it generates (the last is never fed).
std::int64_t announced_rows_of(const TokenSequence& sequence);

// Throws Error(usage) for plans that cannot be recorded (card inconsistent, a fork before its parent, …).
FileStart plan_file(const Recorder::Plan& plan, const RecordOptions& options, std::vector<std::string>& not_recorded);

// A JSON list of at most not_recorded_bytes.
std::string not_recorded_text(const std::vector<std::string>& list);

}  // namespace kvgrind::traces
