// Inside of the recorder. Not for other folders.
#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/file_writer.h"
#include "traces/kvt/query_moments.h"
#include "traces/kvt/recorder.h"
#include "traces/kvt/row_buffers.h"
#include "traces/kvt/write_queue.h"

namespace kvgrind::traces {

// Rows that will be committed together: never across a multiple of C.
struct Range {
  std::int64_t first = 0, end = 0;              // rows of the file
  std::int64_t query_first = 0, query_end = 0;  // rows of q
  std::vector<std::uint64_t> sums;              // a row of tok_sums
  std::int64_t layers_written = 0;
};

float row_norm(View<const float, 2> x, std::int64_t row);  // L2

struct Extent {
  std::int64_t first_row = 0, rows = 0, first_position = 0;
};

// A sequence between its first pass and sequence_done.
struct OpenSequence {
  std::optional<AttentionSums> attention;
  std::optional<QueryMoments> moments;
  std::vector<Extent> extents;
  std::int64_t next_position = 0;
  std::int64_t rows = 0;
};

struct Recorder::State {
  Plan plan;
  RecordOptions options;
  Content content;
  std::vector<std::string> not_recorded;
  std::int64_t C = 16;
  // Rows of tokens are written by the queue, in order; everything else goes to the file directly once it is drained.
  std::unique_ptr<FileWriter> file;
  WriteQueue queue{queue_bytes};
  static constexpr std::int64_t queue_bytes = std::int64_t{8} << 20;
  bool ended = false;  // closed, stopped or failed: nothing more is written
  SumColumns columns{};

  GroupBuffer k, v, q, lse;
  std::array<RowBuffer, small_count> small;
  std::deque<Range> ranges;
  std::int64_t rows = 0, query_rows = 0, text_bytes = 0, committed = 0, committed_text = 0;
  // Rows whose commit is in the file; `committed` counts those that were given to the queue.
  std::atomic<std::int64_t> landed = 0;
  std::chrono::steady_clock::time_point last_commit = std::chrono::steady_clock::now();

  std::map<std::int64_t, OpenSequence> open;
  std::vector<bool> done;
  std::int64_t first_spare = 0;  // index of the first spare sequence
  std::int64_t current = -1;     // sequence of the last pass
  double mass_error = std::numeric_limits<double>::quiet_NaN();

  // The pass under way.
  bool in_pass = false, decode = false;
  std::int64_t pass_sequence = 0, pass_first = 0, pass_row = 0, pass_rows = 0, pass_query_row = 0;
  std::vector<std::int32_t> pass_ids;
  std::vector<std::int64_t> chosen;    // rows of the pass whose queries are kept
  std::vector<std::int64_t> left_out;  // rows of the next pass whose queries are not
  std::int64_t next_layer = 0;

  // The last row, while the token after it is unknown.
  std::int64_t pending_row = -1;
  std::vector<float> pending_logits;
  double pending_log_sum = 0.0;
  bool lost_nll = false;

  RowBuffer& row_buffer(Small which) { return small[static_cast<std::size_t>(which)]; }
  const TokenSequence& sequence(std::int64_t id) const { return plan.sequences[static_cast<std::size_t>(id)]; }

  OpenSequence& opened(std::int64_t id);
  void reserve(std::int64_t bytes);
  void describe(std::int64_t id, TokenSequence known);
  void begin(const TapPass& pass);
  void layer(const TapLayer& layer);
  void end(const TapEnd& end);
  void next_tokens(const NextTokens& given);
  void last_logits(std::span<const float> logits);
  void resolve_next(std::int32_t token);
  void hash_layer(Range& range, std::int64_t layer);
  void give_slice(const Range& range, GroupBuffer& from, std::int64_t layer, std::int64_t head);
  void write_layer(Range& range, std::int64_t layer);
  void commit_range(Range& range);
  void commit_due();
  void commit_all();   // of what was shown so far
  void commit_tail();  // the same, and waits until it is in the file
  void drop_pass();
  void sequence_done(std::int64_t id, std::int32_t next_token);
  void write_colsums(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables);
  void write_statistics(OpenSequence& one, std::int64_t id, Row& commit, Hasher& tables);
  void probe(std::int64_t id, const ProbePass& pass, const ProbeRows& values);
  void write_maps(OpenSequence& one, std::int64_t id);
  FileWriter::Ending ending(StatusCode code);
  void finish();
  void stop(StatusCode code);

  // Runs a piece of writing; after a write fault nothing is touched any more. Only work that leaves the file to the
  // queue may begin before that is drained.
  enum class Begins : std::uint8_t { when_drained, at_once };
  template <class F>
  void guarded(F&& work, Begins begins = Begins::when_drained) {
    if (ended)
      throw Error(Category::write, {.doing = "writing trace", .on = plan_path, .found = "a recording that has ended"});
    try {
      if (begins == Begins::when_drained) queue.drain();
      work();
    } catch (const Error& error) {
      if (error.category() == Category::write && !ended) {
        ended = true;
        file->abandon();
        Fault fault = error.fault();
        fault.usable = usable();
        throw Error(Category::write, std::move(fault));
      }
      throw;
    }
  }
  std::string plan_path;
  std::string usable() const {
    return "the first " + std::to_string(landed.load()) + " tokens are in " + file->output().part().string();
  }
};

}  // namespace kvgrind::traces
