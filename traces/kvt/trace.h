// Reading a `.kvt` trace: committed rows only, everything checked before use. See traces/SCHEMA.md for the file.
// A sequence is seen whole: a fork's rows begin with its parent's up to the fork position, so position = row index.
// All K, V, Q come back as fp32. Thread-safe (one lock around HDF5).
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/json.h"
#include "core/model_card.h"
#include "core/probe.h"
#include "core/sequence.h"

namespace kvgrind::traces {

struct OpenOptions {
  bool probe = true;             // first open in a forked child (10 s, memory limit); false = --trust
  bool verify_checksums = true;  // of every committed slice that is read, once
};

enum class TraceState : std::uint8_t { complete, unfinished, truncated_disk_full, interrupted };

struct SequenceInfo {
  std::int64_t id = 0;
  std::int64_t parent = -1;
  std::int64_t fork_at = 0;
  std::int64_t tokens = 0;  // T: positions [0, T), parent's prefix included
  std::int64_t own_rows = 0;
  std::vector<Segment> segments;
  std::vector<Span> spans;
};

enum class KeyRope : std::uint8_t { post, pre };

struct RecordedQueries {
  std::vector<std::int64_t> position;  // ascending
  Array<float, 2> q;                   // [rows, D] post-RoPE
};

struct QueryStatisticsRow {                // pre-RoPE queries of one segment and query head
  std::int64_t begin = 0, end = 0, n = 0;  // positions counted (first 4 of the sequence left out)
  std::vector<float> mean, mean_modulus;   // [D], [D/2]
  Array<float, 2> second_moment;           // [D, D]
};

class Trace {
 public:
  static std::shared_ptr<const Trace> open(const std::filesystem::path& path, const OpenOptions& options = {});
  ~Trace();

  const std::filesystem::path& path() const;
  const ModelCard& card() const;
  TraceState state() const;
  std::string hash() const;  // over tok/seg commit rows and the model card
  const json::object& provenance() const;
  std::vector<std::string> not_recorded() const;  // in plain words: what was dropped or left out, and why
  std::int64_t rows() const;                      // committed token rows of the file
  std::int64_t announced_rows() const;            // 0 = unknown
  const std::vector<SequenceInfo>& sequences() const;

  std::vector<std::int32_t> tokens(std::int64_t sequence) const;
  std::vector<std::string> token_bytes(std::int64_t sequence) const;
  std::vector<float> nll(std::int64_t sequence) const;  // [T], NaN where unknown
  Array<float, 2> keys(std::int64_t sequence, std::int64_t layer, std::int64_t head,
                       KeyRope rope = KeyRope::post) const;
  Array<float, 2> values(std::int64_t sequence, std::int64_t layer, std::int64_t head) const;   // [T, D]
  RecordedQueries queries(std::int64_t sequence, std::int64_t layer, std::int64_t head) const;  // query head
  bool has_queries(std::int64_t sequence, std::int64_t first, std::int64_t n) const;
  Array<float, 2> lse(std::int64_t sequence, std::int64_t layer) const;  // [T, Hq]
  // Σ over the queries of one segment of the attention each key received, [Hq, T]; segment = index into segments, or
  // −1 = all prefill queries. Empty optional: not recorded.
  std::optional<Array<float, 2>> column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment) const;
  std::vector<QueryStatisticsRow> query_statistics(std::int64_t sequence, std::int64_t layer, std::int64_t head) const;
  std::vector<float> hidden_norm(std::int64_t sequence, std::int64_t layer) const;  // [T]; layer L = final residual
  std::vector<float> attention_input_norm(std::int64_t sequence, std::int64_t layer) const;
  // Reference log-probabilities of the run: the 64 most likely next tokens. [T, 64]
  Array<std::int32_t, 2> top_ids(std::int64_t sequence) const;
  Array<float, 2> top_log_probabilities(std::int64_t sequence) const;
  // Pooled maps (log-quantised, see SCHEMA.md), [cells, cells] in 0…1 attention; empty: not recorded.
  struct PooledMap {
    std::int64_t cell_tokens = 0;
    Array<float, 2> max, mean;
  };
  std::optional<PooledMap> pooled_map(std::int64_t sequence, std::int64_t layer, std::int64_t head) const;
  // Passes over the context of this sequence once more (their ids are not stored), and what one query head gave to the
  // context's keys in those of a kind, by number. A fork has those of the contexts it continues.
  std::vector<ProbePass> probe_passes(std::int64_t sequence) const;
  std::vector<ProbeColumns> probes(std::int64_t sequence, std::int64_t layer, std::int64_t head, ProbeKind kind) const;
  std::int64_t probe_bytes() const;                                            // of committed values, all sequences
  std::optional<Array<float, 2>> output_projection(std::int64_t layer) const;  // [hidden, Hq·D]; not stored: empty
  std::int64_t commits() const;  // good commit rows of all streams; grows while a file is written
  std::int32_t next_token(std::int64_t sequence) const;  // sampled last and never fed; −1 = none or unknown
  double largest_mass_error() const;                     // largest |Σp − 1| the writer saw; NaN = not measured

  struct State;  // inside of the reader

 private:
  explicit Trace(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind::traces
