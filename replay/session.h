// The one door for programs that show things: a trace, its sequences, jobs, and the small matrices a view asks for.
// Immutable values come back; every function may be called from any thread. Long ones take a CancelToken.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/array.h"
#include "core/progress.h"
#include "replay/open_loop/open_loop.h"
#include "replay/open_loop/recorded_run.h"
#include "replay/report/report.h"
#include "traces/kvt/trace.h"

namespace kvgrind::replay {

struct SessionJob {
  std::string policy;  // as typed
  std::string budget = "0.2";
  Protocol protocol = Protocol::blind;
  std::int64_t sequence = 0;
  std::uint64_t seed = 0;
};

struct JobView {
  traces::ResultRow row;
  OpenOutcome outcome;  // with token states
};

enum class Pool : std::uint8_t { max, mean, sum };

// Queries [query_begin, query_end) down, keys [key_begin, key_end) across; a cell covers `cell` × `cell` entries.
struct TileRequest {
  std::int64_t sequence = 0, layer = 0, query_head = 0;
  std::int64_t query_begin = 0, query_end = 0, key_begin = 0, key_end = 0;
  std::int64_t cell = 1;
  Pool pool = Pool::max;
};
struct Tile {
  Array<float, 2> value;  // NaN where no query of the cell was recorded; 0 above the diagonal
  bool exact = true;      // false: some queries of it were not recorded
};

class Session {
 public:
  static std::shared_ptr<Session> open(const std::filesystem::path& path, bool trust = false);
  // Over any recording; `trace` may be null (then text() is empty).
  Session(std::shared_ptr<const RecordedRun> run, std::shared_ptr<const traces::Trace> trace);
  ~Session();

  const RecordedRun& run() const;
  const traces::Trace* trace() const;
  std::shared_ptr<const SequenceData> data(std::int64_t sequence) const;  // loaded once, kept

  // Runs one job to its end (on the caller's thread).
  std::shared_ptr<const JobView> replay(const SessionJob& job, const CancelToken& cancel = {}) const;

  // exp(cap(scale · q·k) − LSE), pooled.
  Tile attention_tile(const TileRequest& request) const;
  // Attention each key received from all recorded queries, mean over the query heads of a layer (or one head ≥ 0). [T]
  std::vector<float> received_mass(std::int64_t sequence, std::int64_t layer, std::int64_t query_head = -1) const;
  std::vector<std::string> text(std::int64_t sequence) const;  // bytes of each token

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::replay
