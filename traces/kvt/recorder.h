// Recording: a Tap that writes a `.kvt` crash-safely with bounded memory. See traces/SCHEMA.md and the protocol there.
//
// Memory held, with C tokens a chunk (see header: chunk_rows; C · (row of k, v, q, lse over all layers) ≤ 512 MiB):
//   C · L · ((2 Hk + Hq) · D · element + 4 Hq) bytes of rows that wait for their chunk, whatever the run's length; a
//   layer's part of that where passes fill whole chunks
// + 8 MiB, or one chunk, that wait for the thread that writes while the model goes on
// + (n + C) · (8 L + 600) bytes of small per-token rows, n = tokens of one pass
// + while a sequence is open: column sums 4 · L · Hq · T bytes a segment (at most 4, and one for queries of none),
//   maps 2 · L · Hq · 132 KiB at most, query statistics 8 · L · Hq · (D² + 1.5 D) bytes a segment; all of it is in the
//   file in the end, and each can be switched off.
//
// One sequence is fed at a time: a pass of another one commits the rows of the first (it may go on later).
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/json.h"
#include "core/model_card.h"
#include "core/probe.h"
#include "core/sequence.h"
#include "core/tap.h"

namespace kvgrind::traces {

enum class QueryContent : std::uint8_t { all, window, sample, none };
enum class FsyncMode : std::uint8_t { never, chunk, end };

struct RecordOptions {
  QueryContent queries = QueryContent::all;
  std::int64_t query_window = 64;   // window: last W of each segment + all decode and answer queries
  double query_sample_share = 0.1;  // sample: stratified over positions, + window
  bool column_sums = true;
  bool query_statistics = true;
  bool pooled_maps = true;
  bool logits_top64 = true;
  bool output_projection = true;  // stored unless above 5 % of the announced file (then said so in the file)
  FsyncMode fsync = FsyncMode::end;
  std::int64_t reserve_bytes = 256ll << 20;  // free disk space left alone
  // Closed segment files on the way, joined at the end (segments.h); always so on NFS and SMB. A kill then costs what
  // came after the last segment was closed.
  bool segments = false;
  std::int64_t segment_bytes = 64ll << 20;  // a segment ends at the commit after so much, or after 10 s
  bool force = false;                       // replace an existing final file (by rename)
  bool anonymous = false;                   // no host, user, paths in the provenance
};

class Recorder final : public Tap {
 public:
  // `sequences` announces everything that will be fed (forks included), in order. output_projection(layer) may be null.
  // token_bytes(id) gives the bytes of a token (may be null: no text recorded).
  struct Plan {
    ModelCard card;
    std::vector<TokenSequence> sequences;
    json::object provenance;  // command, seeds, … ; version, git hash, machine, times are added
    std::function<Array<float, 2>(std::int64_t layer)> output_projection;
    std::function<std::string(std::int32_t)> token_bytes;
    // For sources that learn what they are fed only as it comes: this many empty sequences stand behind `sequences`,
    // to be described (describe) before they are fed. Those never fed are not missing from anything.
    std::int64_t spare_sequences = 0;
    // Told whenever more token rows can be relied on, by the thread that writes. May be null.
    std::function<void(std::int64_t committed_rows)> on_commit;
    // Passes over contexts once more that will be shown (probe), and their rows: Σ statistics · keys.
    std::int64_t probes = 0, probe_rows = 0;
  };
  Recorder(const std::filesystem::path& path, Plan plan, const RecordOptions& options);
  ~Recorder() override;  // without close(): abandons the file as a crash would (prefix readable)

  bool wants_probabilities(std::int64_t layer) const override;
  bool wants_all_logits() const override;
  void begin(const TapPass&) override;
  void probabilities(const TapProbabilities&) override;
  void layer(const TapLayer&) override;
  void end(const TapEnd&) override;

  // For sources that sum attention themselves and show no probabilities: before sequence_done, the column sums
  // [Hq, keys] of one layer over the prefill queries of recorded segment `segment` (recorded_segments_of), or of none
  // (−1).
  void column_sums(std::int64_t sequence, std::int64_t layer, std::int64_t segment, View<const float, 2> sums);

  // The same for maps: of one layer, maximum and sum of the attention in each cell [Hq, cells], as many tokens a cell
  // as map_cell_tokens of the announced length gives, cell (r, c) at r (r + 1) / 2 + c.
  void pooled_map(std::int64_t sequence, std::int64_t layer, View<const float, 2> max, View<const float, 2> sum);
  // And for statistics of pre-RoPE queries: Σ x [Hq, D], Σ |pair| [Hq, D/2], Σ x xᵀ [Hq, D, D] over n queries of one
  // layer and recorded segment; −1 = what was generated.
  void query_moments(std::int64_t sequence, std::int64_t layer, std::int64_t segment, std::int64_t n,
                     const double* mean, const double* modulus, const double* second);
  // And for predictions: before end(), of the n rows of the pass: the likeliest next tokens [n, 64] with natural
  // log-probabilities, and −log p of the token that follows [n] (NaN: unknown). The logits of a last row whose next
  // token is not known come by last_logits, after end() and before another pass.
  struct NextTokens {
    const std::int32_t* top_id = nullptr;
    const float* top_logp = nullptr;
    const float* nll = nullptr;
    bool last_later = false;
  };
  void next_tokens(const NextTokens& rows);
  void last_logits(std::span<const float> logits);

  // Between passes: what is known by now of a sequence that is not done: ids, segments, decode; parent and fork too as
  // long as nothing of it was fed. Its spans stay as announced. A segment's end may only move while it is the last.
  void describe(std::int64_t sequence, TokenSequence known);
  // Before a pass: queries of these rows of it (ascending) are not kept, whatever the options say.
  void leave_out_queries(std::vector<std::int64_t> rows);
  // One more line of what was not recorded, and why.
  void remark(std::string line);

  // All tokens of this sequence were fed: its seg, map and extent rows are written and committed.
  void sequence_done(std::int64_t sequence, std::int32_t next_token = -1);
  // A pass over the context of a sequence that is done, once more: [statistics · keys, Hq] of a layer, the measured
  // statistics one behind the other. Committed by itself.
  using ProbeRows = std::function<Array<float, 2>(std::int64_t layer)>;
  void probe(std::int64_t sequence, const ProbePass& pass, const ProbeRows& rows);
  // Final status, close, verify, rename. Announced sequences that were not fed are named in the file as not recorded.
  // Error(write) leaves a readable prefix.
  void close();
  // Stop early (Ctrl+C, disk full): commits what is complete, final state as given, keeps `.part` unless nothing is
  // missing.
  void interrupt();
  // Rows whose commit is due are in the file when this returns. Error(write).
  void settle();
  std::int64_t committed_rows() const;  // token rows that a reader of the file can rely on now

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct CheckReport {
  bool ok = false;
  json::object details;
  std::vector<std::string> findings;
};
CheckReport check_trace(const std::filesystem::path& path, bool deep);
// Writes a clean copy of the committed prefix; returns what was kept and lost. Never edits in place.
json::object repair_trace(const std::filesystem::path& in, const std::filesystem::path& out, bool force);

}  // namespace kvgrind::traces
