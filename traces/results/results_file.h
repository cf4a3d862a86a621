// results.jsonl on disk: appended and flushed per finished job, survives a kill, merges by concatenation.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/json.h"
#include "traces/results/result_row.h"

namespace kvgrind::traces {

struct ResultsLimits {
  std::int64_t max_file_bytes = 8ll << 30;
  std::int64_t max_line_bytes = 64ll << 20;
  std::int64_t max_rows = 10'000'000;
};

struct ResultsContent {
  std::vector<json::object> runs;  // "type":"run" rows, in order
  std::vector<ResultRow> rows;     // "type":"result" rows, in order
  std::int64_t good_bytes = 0;     // up to the end of the last whole line
  std::int64_t ragged_bytes = 0;   // after it: a line that a kill cut off; not read
};

// Whole lines only; a last line without its newline is ragged. Error(missing | damaged) names file and line.
ResultsContent read_results(const std::filesystem::path& path, const ResultsLimits& limits = {});
// Several files as one, in order.
ResultsContent read_results(const std::vector<std::filesystem::path>& paths, const ResultsLimits& limits = {});

class ResultsWriter {
 public:
  enum class Mode : std::uint8_t { create, replace, resume };
  // create: Error(write) when the file exists; resume: truncates a ragged last line first, creates when missing.
  ResultsWriter(const std::filesystem::path& path, Mode mode);
  ~ResultsWriter();
  void write(const json::object& line);  // one line, flushed to the system; Error(write)
  void write(const ResultRow& row) { write(to_json(row)); }
  void close();  // fsync; Error(write)

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::traces
