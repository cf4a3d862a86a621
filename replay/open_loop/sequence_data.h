// Everything about one sequence that no policy changes: loaded once, shared by all its jobs, immutable afterwards.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/array.h"
#include "replay/open_loop/open_source.h"
#include "replay/open_loop/protocol.h"
#include "replay/open_loop/recorded_run.h"

namespace kvgrind::replay {

// Consecutive measured queries: rows [row, row + n) of the measured list, positions [first, first + n).
struct QueryRun {
  std::int64_t row = 0, first = 0, n = 0;
};

class SequenceData {
 public:
  // Reads K, V and the measured queries and runs the reference attention. Error(usage) when no measured query was
  // recorded; the message names the signal.
  SequenceData(std::shared_ptr<const RecordedRun> run, std::int64_t sequence);

  const RecordedRun& run() const { return *run_; }
  const ModelCard& card() const { return run_->card(); }
  const traces::SequenceInfo& info() const { return info_; }
  const OpenSource& source() const { return source_; }
  std::int64_t id() const { return info_.id; }
  std::int64_t tokens() const { return info_.tokens; }
  std::int64_t context_end() const { return context_end_; }  // the blind moment

  const Array<float, 2>& keys(std::int64_t layer, std::int64_t kv_head) const;    // [T, D]
  const Array<float, 2>& values(std::int64_t layer, std::int64_t kv_head) const;  // [T, D]

  // Measured queries: those of the sets that were recorded, ascending by position.
  const std::vector<std::int64_t>& measured() const { return measured_; }
  const std::vector<QueryRun>& runs() const { return query_runs_; }
  const QuerySets& sets() const { return sets_; }
  const Array<float, 2>& measured_queries(std::int64_t layer, std::int64_t query_head) const;  // [measured, D]

  // Reference attention over the full cache, of one query head: rows of softmax [measured, T] and outputs
  // [measured, D]. Kept in memory up to `reference_limit_bytes`, computed again (bitwise the same) beyond it.
  std::shared_ptr<const Array<float, 2>> reference_probabilities(std::int64_t layer, std::int64_t query_head) const;
  const Array<float, 2>& reference_output(std::int64_t layer, std::int64_t query_head) const;
  // Keys of the largest reference probabilities of a row, most first. [measured][≤ overlap_keys]
  const std::vector<std::vector<std::int32_t>>& reference_top(std::int64_t layer, std::int64_t query_head) const;
  // ‖W_O o‖ of the reference, [L][measured]; empty without W_O.
  const std::vector<std::vector<double>>& reference_projected_norm() const { return projected_norm_; }

  std::int64_t bytes() const { return bytes_; }  // memory held

  static constexpr std::int64_t overlap_keys = 32;
  static constexpr std::int64_t reference_limit_bytes = 512ll << 20;

 private:
  std::size_t at(std::int64_t layer, std::int64_t query_head) const;
  void attend(std::int64_t layer, std::int64_t query_head, Array<float, 2>& p, Array<float, 2>* out) const;

  std::shared_ptr<const RecordedRun> run_;
  traces::SequenceInfo info_;
  OpenSource source_;
  QuerySets sets_;
  std::int64_t context_end_ = 0;
  std::vector<std::int64_t> measured_;
  std::vector<QueryRun> query_runs_;
  std::vector<Array<float, 2>> keys_, values_;                         // [L · Hk]
  std::vector<Array<float, 2>> queries_;                               // [L · Hq]
  std::vector<std::shared_ptr<const Array<float, 2>>> probabilities_;  // [L · Hq] or null
  std::vector<Array<float, 2>> outputs_;                               // [L · Hq]
  std::vector<std::vector<std::vector<std::int32_t>>> top_;
  std::vector<std::vector<double>> projected_norm_;
  std::int64_t bytes_ = 0;
};

}  // namespace kvgrind::replay
