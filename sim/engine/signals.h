// Signals: everything a score may read. The open loop's source is the trace, the closed loop's is the runtime; the
// same queries give the same plans. K and V come from the cache the policy owns, never from here.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "core/probe.h"
#include "core/sequence.h"

namespace kvgrind::sim {

enum class Signal : std::uint8_t {
  queries,           // post-RoPE queries at chosen positions
  column_sums,       // attention each key received from all queries so far
  query_statistics,  // mean and second moment of pre-RoPE queries
  future_queries,    // queries after the moment (oracles)
  hidden_norm,       // L2 of the layer's input residual
  attention_input_norm,
  output_projection,  // W_O
  segments,
  spans,
  repeat_probe,   // attention in a pass that is told to repeat the context, part by part (KVzip)
  reread_probe,   // attention in a pass over the context once more, nothing said (KVCompose)
  episode_probe,  // attention of texts that stand for parts of the context (EpiCache)
};
std::string_view signal_name(Signal signal);

struct QueryStatistics {            // of one query head, pre-RoPE
  std::int64_t n = 0;               // queries counted
  std::vector<float> mean;          // [D]
  Array<float, 2> second_moment;    // [D, D], E[q qᵀ]
  std::vector<float> mean_modulus;  // [D/2] per complex pair
};

// Attention of one query over the slots that its cache head showed it.
struct AttentionRow {
  std::span<const float> p;                    // [slots]; empty: not known
  std::span<const std::int64_t> key_position;  // [slots]
};

class SignalSource {
 public:
  virtual ~SignalSource() = default;
  virtual const ModelCard& card() const = 0;
  virtual bool has(Signal signal) const = 0;
  // Post-RoPE queries of one head at positions [first, first + n); Error(usage) naming the signal when not there.
  virtual Array<float, 2> queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const = 0;
  // Σ over queries i < until of the full-cache attention each key received, per key position [until]; of one query
  // head.
  virtual std::vector<float> column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const = 0;
  // Statistics over queries at positions [skip, until).
  virtual QueryStatistics query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                           std::int64_t until) const = 0;
  // Positions [begin, end) of the queries known to come after `moment` (oracles; empty in the closed loop).
  virtual std::pair<std::int64_t, std::int64_t> future(std::int64_t moment) const = 0;
  // Natural log of the full cache's Σ exp(logit) for queries [first, first + n) of one head; empty when unknown. With
  // it, exp(logit − lse) is attention as the full cache has it, although later keys are not in the policy's cache yet.
  virtual std::vector<float> log_sum_exp(std::int64_t layer, std::int64_t head, std::int64_t first,
                                         std::int64_t n) const {
    (void)layer, (void)head, (void)first, (void)n;
    return {};
  }
  // Where the model runs and has just attended, the newest query's row as it came out, bitwise what the slots give when
  // computed anew. Only for a query at `position` and slots that nobody has changed since.
  virtual AttentionRow newest_attention(std::int64_t layer, std::int64_t head, std::int64_t position) const {
    (void)layer, (void)head, (void)position;
    return {};
  }
  // All passes of a kind (repeat_probe, reread_probe, episode_probe) over the context, by number, of one query head.
  // Error(usage) when none was made.
  virtual std::vector<ProbeColumns> probes(std::int64_t layer, std::int64_t head, Signal kind) const;
  virtual std::span<const float> hidden_norm(std::int64_t layer) const = 0;           // [T]
  virtual std::span<const float> attention_input_norm(std::int64_t layer) const = 0;  // [T]
  virtual const Array<float, 2>& output_projection(std::int64_t layer) const = 0;     // [hidden, Hq·D]
  virtual std::span<const Segment> segments() const = 0;
  virtual std::span<const Span> spans() const = 0;
};

}  // namespace kvgrind::sim
