// Everything about one sequence that no policy changes: loaded once, shared by all its jobs, immutable afterwards.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/array.h"
#include "core/progress.h"
#include "replay/metrics/tally.h"
#include "replay/open_loop/open_source.h"
#include "replay/open_loop/protocol.h"
#include "replay/open_loop/recorded_run.h"
#include "sim/engine/score_store.h"

namespace kvgrind::replay {

// Consecutive measured queries: rows [row, row + n) of the measured list, positions [first, first + n).
struct QueryRun {
  std::int64_t row = 0, first = 0, n = 0;
};

// Rows of softmax over all tokens.
struct ReferenceRows {
  std::shared_ptr<const Array<float, 2>> block;  // [rows, T]
  std::int64_t first = 0;                        // measured row of its row 0
  std::span<const float> row(std::int64_t measured_row) const {
    const std::int64_t tokens = block->extent(1);
    return {block->data() + (measured_row - first) * tokens, static_cast<std::size_t>(tokens)};
  }
};

class SequenceData {
 public:
  // Reads K, V and the measured queries and runs the reference attention (in parallel over layers and heads: call it
  // without holding a lock). Error(usage) when no measured query was recorded; the message names the signal.
  // Error(interrupted) once cancelled.
  SequenceData(std::shared_ptr<const RecordedRun> run, std::int64_t sequence,
               std::int64_t reference_bytes = reference_limit_bytes, const CancelToken& cancel = {});

  const RecordedRun& run() const { return *run_; }
  const ModelCard& card() const { return run_->card(); }
  const traces::SequenceInfo& info() const { return info_; }
  const OpenSource& source() const { return source_; }
  std::int64_t id() const { return info_.id; }
  std::int64_t tokens() const { return info_.tokens; }
  std::int64_t context_end() const { return context_end_; }  // the blind moment

  const Array<float, 3>& keys(std::int64_t layer) const {
    return keys_[static_cast<std::size_t>(layer)];
  }  // [T, Hk, D]
  const Array<float, 3>& values(std::int64_t layer) const { return values_[static_cast<std::size_t>(layer)]; }

  // Measured queries: those of the sets that were recorded, ascending by position. M of them.
  const std::vector<std::int64_t>& measured() const { return measured_; }
  const std::vector<QueryRun>& runs() const { return query_runs_; }
  const QuerySets& sets() const { return sets_; }
  const Array<float, 3>& queries(std::int64_t layer) const {
    return queries_[static_cast<std::size_t>(layer)];
  }  // [M, Hq, D]

  // Reference attention over the full cache: rows [row, row + n) of softmax of one query head (all rows are kept in
  // memory up to a limit; beyond it these are computed again, bitwise the same), outputs of a layer [M, Hq·D], and per
  // row the keys of the largest probabilities, most first (at most `overlap_keys`).
  ReferenceRows reference_rows(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::int64_t n) const;
  const Array<float, 2>& reference_output(std::int64_t layer) const {
    return outputs_[static_cast<std::size_t>(layer)];
  }
  const std::vector<std::int32_t>& reference_top(std::int64_t layer, std::int64_t query_head, std::int64_t row) const;

  // Mass and strong attention of the row.
  const RowTally& reference_tally(std::int64_t layer, std::int64_t query_head, std::int64_t row) const {
    return tallies_[at(layer, query_head) * measured_.size() + static_cast<std::size_t>(row)];
  }
  // Keys that count as look-ups: the context without its first tokens.
  ContextKeys context_keys() const { return {std::min(excluded_first, context_end_), context_end_}; }

  // ‖W_O o‖ of the reference and ‖x‖ of the layer's input residual, [L, M]; empty where W_O or norms are not recorded.
  const Array<double, 2>& projected_norm() const { return projected_norm_; }
  const Array<double, 2>& residual_norm() const { return residual_norm_; }

  // −log p of the token after each measured query in the recorded run [M], NaN where unknown; empty when not recorded.
  const std::vector<double>& nll() const { return nll_; }

  // Scores that runs of different amounts share.
  sim::ScoreStore& scores() const { return *scores_; }

  std::int64_t bytes() const;                                                          // memory held, signals apart
  static std::int64_t estimated_bytes(const RecordedRun& run, std::int64_t sequence);  // before loading

  static constexpr std::int64_t overlap_keys = 32;
  static constexpr std::int64_t reference_limit_bytes = 256ll << 20;

 private:
  std::size_t at(std::int64_t layer, std::int64_t query_head) const {
    return static_cast<std::size_t>(layer * card().query_heads + query_head);
  }
  // Measured rows [row, row + n): p [n, T], out [n, D].
  Array<float, 2> attend(std::int64_t layer, std::int64_t query_head, std::int64_t row, std::int64_t n,
                         View<float, 2> out) const;
  void find_measured();
  void load_layer(std::int64_t layer);
  void project_reference();

  std::shared_ptr<const RecordedRun> run_;
  traces::SequenceInfo info_;
  OpenSource source_;
  QuerySets sets_;
  std::int64_t context_end_ = 0;
  std::vector<std::int64_t> measured_;
  std::vector<QueryRun> query_runs_;
  bool keep_probabilities_ = true;
  std::vector<Array<float, 3>> keys_, values_, queries_;               // [L]
  std::vector<std::shared_ptr<const Array<float, 2>>> probabilities_;  // [L · Hq] or empty
  std::vector<Array<float, 2>> outputs_;                               // [L]
  std::vector<std::vector<std::int32_t>> top_;                         // [L · Hq · M]
  std::vector<RowTally> tallies_;                                      // [L · Hq · M]
  Array<double, 2> projected_norm_, residual_norm_;
  std::vector<double> nll_;
  std::unique_ptr<sim::ScoreStore> scores_ = std::make_unique<sim::ScoreStore>();
};

}  // namespace kvgrind::replay
