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
#include "replay/look/facts.h"
#include "replay/look/tile.h"
#include "replay/look/timeline.h"
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
  Timeline timeline;    // empty unless asked for
};

// What one policy slot of a line offers, and what a preset accepts: for completion and help.
struct Completion {
  std::string text, help;
};

class Session {
 public:
  static std::shared_ptr<Session> open(const std::filesystem::path& path, bool trust = false);
  // Over any recording; `trace` may be null (then text() is empty).
  Session(std::shared_ptr<const RecordedRun> run, std::shared_ptr<const traces::Trace> trace);
  ~Session();

  const RecordedRun& run() const;
  const traces::Trace* trace() const;
  // Kept while it is used and as long as it is among the last; Error(unavailable) when it would not fit into memory.
  std::shared_ptr<const SequenceData> data(std::int64_t sequence) const;

  // Runs one job to its end (on the caller's thread).
  std::shared_ptr<const JobView> replay(const SessionJob& job, const CancelToken& cancel = {},
                                        bool timeline = false) const;

  // exp(cap(scale · q·k) − LSE), pooled. Where that would take long, or no query was recorded, and a map of the right
  // cells is there (index or trace), from the map; else from every n-th query. The tile says which.
  Tile attention_tile(const TileRequest& request, const CancelToken& cancel = {}) const;
  AttentionRow attention_row(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                             std::int64_t query) const;
  HeadFacts head_facts(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                       const CancelToken& cancel = {}) const;
  // A max-pooled map of at most side × side cells.
  Tile thumbnail(std::int64_t sequence, std::int64_t layer, std::int64_t query_head, std::int64_t side,
                 const CancelToken& cancel = {}) const;
  // Mass on positions [begin, end) by the recorded queries from `end` on (at most `most`, evenly spread).
  SpanMass span_mass(std::int64_t sequence, std::int64_t begin, std::int64_t end, std::int64_t most,
                     const CancelToken& cancel = {}) const;
  ChannelFacts channels(std::int64_t sequence, std::int64_t layer, bool values, const CancelToken& cancel = {}) const;

  // Attention each key received from all recorded queries, mean over the query heads of a layer (or one head ≥ 0). [T]
  // Where the sums were not recorded and computing them would take long: from some queries, scaled up (see below).
  std::vector<float> received_mass(std::int64_t sequence, std::int64_t layer, std::int64_t query_head = -1,
                                   const CancelToken& cancel = {}) const;
  bool received_mass_is_sampled(std::int64_t sequence, std::int64_t layer) const;
  std::vector<std::string> text(std::int64_t sequence) const;  // bytes of each token
  bool indexed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "" when the line binds and the amount reads; else why not, in words.
std::string policy_fault(const std::string& policy, const std::string& budget);
// What may follow `before` (the text up to the cursor), best first.
std::vector<Completion> complete_policy(const std::string& before);

// Makes the pyramid base of a trace (see replay/look/build_index.h).
void index_trace(const std::filesystem::path& path, bool force, Progress* progress, const CancelToken& cancel);
std::vector<traces::ResultRow> read_result_rows(const std::filesystem::path& path);

}  // namespace kvgrind::replay
