// The writing half of the format: creates every dataset, starts SWMR, appends, commits, ends. Knows nothing of models
// running. Used by the recorder and by repair.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "traces/kvt/output_file.h"
#include "traces/kvt/recorder.h"
#include "traces/kvt/schema.h"
#include "traces/kvt/segments.h"

namespace kvgrind::traces {

struct FileStart {
  Layout layout;
  std::string card, header, provenance, names, not_recorded;  // JSON texts; names: kinds and labels of spans
  std::vector<Row> sequences, segments, spans;                // as announced; sealed here
  // Fills one layer of w_o, [hidden, Hq·D] in layout.output_element; called when the layout has it.
  std::function<void(std::int64_t layer, void* out)> output_projection;
};

class FileWriter {
 public:
  // Everything up to the start of SWMR. Where the file system cannot have that, or when wanted: in segments
  // (segments.h) of about `segment_bytes`. Error(write).
  FileWriter(const std::filesystem::path& final, bool force, FsyncMode fsync, FileStart start,
             bool wants_segments = false, std::int64_t segment_bytes = 64ll << 20);
  ~FileWriter();  // without publish or stop: closed, left as `.part`, unless abandoned

  const OutputFile& output() const { return output_; }
  std::int64_t rows(const std::string& name) const;  // extent of axis 0
  std::int64_t commits(Stream stream) const { return commits_[static_cast<std::size_t>(stream)]; }

  void grow(const std::string& name, std::int64_t rows);
  void write_rows(const std::string& name, std::int64_t first, std::int64_t n, const void* data);
  void append(const std::string& name, std::int64_t n, const void* data);
  // n rows of one (layer, head) of k, v, q or one layer of lse, colsum: whole chunks as they are, the rest as boxes.
  void write_group(const std::string& name, std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n,
                   const void* data);
  void write_box(const std::string& name, std::initializer_list<std::int64_t> at,
                 std::initializer_list<std::int64_t> count, const void* data);
  // Flushes what was written, then seals, chains and appends the row.
  void commit(Stream stream, Row row);

  // All that was written is committed: a segment may end here.
  void rest();

  struct Ending {
    StatusCode state = StatusCode::complete;
    std::int64_t rows = 0, announced = 0;
    double mass_error = 0.0;
    std::string not_recorded;
    std::uint64_t start_ms = 0, end_ms = 0;  // 0: from this writer's clock
  };
  void stop(const Ending& ending);     // final status, closed, left as `.part`
  void publish(const Ending& ending);  // final status, closed, verified, renamed
  // After a failed write: nothing more is done with the handles, for closing them could crash.
  void abandon();

 private:
  bool begin(FileStart& start);  // false when SWMR was refused; then nothing is left of it
  void begin_segment(std::map<std::string, std::int64_t> rows_before);
  void end_segment();
  void next_segment();
  std::int64_t base(const std::string& name) const;
  std::filesystem::path open_path() const;
  void close(const Ending& ending);
  void write_endings(const Ending& ending);
  static void verify(const std::filesystem::path& path, std::int64_t commits);
  void write_status(const Ending& ending);
  hdf5::Dataset& at(const std::string& name);
  const hdf5::Dataset& at(const std::string& name) const;

  OutputFile output_;
  FsyncMode fsync_;
  hdf5::File file_;
  std::map<std::string, hdf5::Dataset> datasets_;
  std::map<std::string, std::int64_t> chunk_rows_;
  std::set<std::string> touched_;
  bool segmented_ = false;
  std::int64_t segment_bytes_ = 0, bytes_ = 0;             // of the open segment
  std::chrono::steady_clock::time_point segment_began_{};  // the same
  std::vector<SegmentEntry> segments_;                     // closed
  std::map<std::string, std::int64_t> bases_;              // rows of each dataset in closed segments
  Layout layout_;
  std::array<std::int64_t, 5> commits_{};
  std::array<std::uint64_t, 5> chain_{};
  std::uint64_t start_ms_ = 0;
};

}  // namespace kvgrind::traces
