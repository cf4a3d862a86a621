// What the open loop reads of a recording. Two implementations: over traces::Trace, and synthetic ones in tests.
// A sequence is seen whole (a fork begins with its parent's rows), so position = row index. All values fp32.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "kernels/linear/linear.h"
#include "traces/kvt/trace.h"

namespace kvgrind::replay {

// Thread-safe: every function may be called from several threads at once.
class RecordedRun {
 public:
  virtual ~RecordedRun() = default;
  virtual const ModelCard& card() const = 0;
  virtual std::string hash() const = 0;  // identity of the recording, 16 hex digits
  virtual const std::vector<traces::SequenceInfo>& sequences() const = 0;

  virtual std::vector<std::int32_t> tokens(std::int64_t sequence) const = 0;  // [T]
  virtual Array<float, 2> keys(std::int64_t sequence, std::int64_t layer,
                               std::int64_t kv_head) const = 0;  // [T, D] post-RoPE
  virtual Array<float, 2> values(std::int64_t sequence, std::int64_t layer, std::int64_t kv_head) const = 0;  // [T, D]
  virtual traces::RecordedQueries queries(std::int64_t sequence, std::int64_t layer, std::int64_t query_head) const = 0;
  virtual Array<float, 2> lse(std::int64_t sequence, std::int64_t layer) const = 0;  // [T, Hq]
  // Σ over the queries of one segment of the attention each key received, [Hq, T]; segment −1 = all prefill queries.
  virtual std::optional<Array<float, 2>> column_sums(std::int64_t sequence, std::int64_t layer,
                                                     std::int64_t segment) const = 0;
  virtual std::vector<traces::QueryStatisticsRow> query_statistics(std::int64_t sequence, std::int64_t layer,
                                                                   std::int64_t query_head) const = 0;
  // −log p of the token after each, in the recorded run [T]; NaN where unknown, empty when not recorded.
  virtual std::vector<float> nll(std::int64_t sequence) const {
    (void)sequence;
    return {};
  }
  // [T], empty when not recorded.
  virtual std::vector<float> hidden_norm(std::int64_t sequence, std::int64_t layer) const = 0;
  virtual std::vector<float> attention_input_norm(std::int64_t sequence, std::int64_t layer) const = 0;

  // What one query head gave to the context's keys in recorded passes over it once more, by number; empty: none.
  virtual std::vector<ProbeColumns> probes(std::int64_t sequence, std::int64_t layer, std::int64_t query_head,
                                           ProbeKind kind) const {
    (void)sequence, (void)layer, (void)query_head, (void)kind;
    return {};
  }

  // W_O [hidden, Hq·D], and the same packed for products; null: not stored. Read once, kept with the run.
  const Array<float, 2>* output_projection(std::int64_t layer) const;
  const kernels::PackedLinear* packed_projection(std::int64_t layer) const;

 protected:
  virtual std::optional<Array<float, 2>> read_output_projection(std::int64_t layer) const = 0;

 private:
  struct Projection {
    std::optional<Array<float, 2>> weight;
    kernels::PackedLinear packed;
  };
  const Projection& projection(std::int64_t layer) const;
  mutable std::mutex mutex_;
  mutable std::map<std::int64_t, Projection> projections_;
};

std::shared_ptr<const RecordedRun> recorded_run(std::shared_ptr<const traces::Trace> trace);
// The same recording with W_O from elsewhere (`replay --model DIR`), where the trace does not store it.
std::shared_ptr<const RecordedRun> with_output_projection(
    std::shared_ptr<const RecordedRun> run, std::function<Array<float, 2>(std::int64_t layer)> output_projection);

// The sequence with that id; Error(usage) with the ids there are.
const traces::SequenceInfo& find_sequence(const RecordedRun& run, std::int64_t sequence);
// The sequence at the root of its forks: sequences on one context share it (the bootstrap draws these).
std::int64_t root_sequence(const RecordedRun& run, std::int64_t sequence);

}  // namespace kvgrind::replay
