// A recording in memory, for tests of the engine: random Q, K, V with outliers, attention by the reference kernel.
#pragma once
#include <cstdint>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <string_view>
#include <vector>

#include "core/array.h"
#include "sim/engine/cache_state.h"
#include "sim/engine/policy_run.h"
#include "sim/engine/signals.h"

namespace kvgrind::tests {

// One value of each kind per layer and head; q and k post-RoPE.
struct SyntheticData {
  ModelCard card;
  std::int64_t tokens = 0;
  std::vector<Array<float, 2>> q;     // [L · Hq][T, D]
  std::vector<Array<float, 2>> k, v;  // [L · Hk][T, D]
  std::vector<Segment> segments;
  std::vector<Span> spans;
  std::vector<Array<float, 2>> projection = {};      // W_O [L][hidden, Hq·D]; empty = the identity in every layer
  std::vector<std::vector<float>> hidden_norm = {};  // [L][T] or empty
};

class SyntheticSource final : public sim::SignalSource {
 public:
  explicit SyntheticSource(SyntheticData data);

  const ModelCard& card() const override { return data_.card; }
  bool has(sim::Signal signal) const override { return !missing.contains(signal); }
  Array<float, 2> queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const override;
  std::vector<float> column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const override;
  sim::QueryStatistics query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                        std::int64_t until) const override;
  std::pair<std::int64_t, std::int64_t> future(std::int64_t moment) const override { return {moment, tokens()}; }
  std::vector<float> log_sum_exp(std::int64_t layer, std::int64_t head, std::int64_t first,
                                 std::int64_t n) const override;
  // Two passes over the halves of [0, probe_end), 0 = all tokens: the queries and keys of the last tokens, set behind
  // it. Norms at the queries are 1, 2, 1, 2, …
  std::vector<ProbeColumns> probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const override;
  std::int64_t probe_end = 0, probe_rows = 6;
  // Instead of that pass.
  std::function<std::vector<ProbeColumns>(std::int64_t layer, std::int64_t head, sim::Signal kind)> given_probes;
  std::span<const float> hidden_norm(std::int64_t layer) const override {
    if (data_.hidden_norm.empty()) return {};
    return data_.hidden_norm[static_cast<std::size_t>(layer)];
  }
  std::span<const float> attention_input_norm(std::int64_t) const override { return {}; }
  const Array<float, 2>& output_projection(std::int64_t layer) const override {
    return data_.projection[static_cast<std::size_t>(layer)];
  }
  std::span<const Segment> segments() const override { return data_.segments; }
  std::span<const Span> spans() const override { return data_.spans; }

  std::int64_t tokens() const { return data_.tokens; }
  const SyntheticData& data() const { return data_; }
  // Full-cache attention of one query head, [T, T].
  const Array<float, 2>& probabilities(std::int64_t layer, std::int64_t head) const;
  // Appends K and V of positions [first, first + n) to every layer.
  void feed(sim::CacheState& cache, std::int64_t first, std::int64_t n) const;
  // Queries [first, first + n) of all heads of a layer, [n, Hq, D].
  Array<float, 3> query_block(std::int64_t layer, std::int64_t first, std::int64_t n) const;

  std::set<sim::Signal> missing;  // what has() denies

 private:
  std::size_t at(std::int64_t layer, std::int64_t head) const {
    return static_cast<std::size_t>(layer * data_.card.query_heads + head);
  }
  SyntheticData data_;
  struct Head {  // computed when first asked for
    std::once_flag once;
    Array<float, 2> p;  // [T, T]
    std::vector<float> lse;
  };
  const Head& head(std::int64_t layer, std::int64_t head) const;
  mutable std::vector<Head> heads_;  // [L · Hq]
};

struct SyntheticShape {
  std::int64_t layers = 2, query_heads = 4, kv_heads = 2, head_dim = 8, tokens = 48;
  std::int64_t window = 0;  // of the last layer
  std::int64_t rotary_dim = 8;
};
SyntheticData random_data(std::mt19937_64& rng, const SyntheticShape& shape);

// The fixture T8: one layer, two query heads over one KV head, eight tokens, attention rows as tabulated (one-hot keys,
// so that log A are the logits). Values as tabulated, padded with zeros.
SyntheticData t8_attention();
// T8's keys and values in two dimensions (attention is not that of the table).
SyntheticData t8_geometry();
std::vector<std::vector<double>> t8_table(int head);  // [8][≤ 8]

// Runs a policy through prefill to `compress_at` and further tokens one at a time; the cache afterwards.
// Random tensors of the shapes that `kvgrind fit METHOD` writes for such a model.
std::shared_ptr<const Calibration> synthetic_calibration(const std::string& method, const ModelCard& card);

struct EngineRun {
  sim::CacheState cache;
  std::vector<std::int64_t> requested, effective;
  std::int64_t slots_called = 0, nan_scores = 0;
  std::vector<std::int64_t> kept(std::int64_t layer, std::int64_t group) const;  // positions
};
struct EngineSetup {
  sim::Amount amount;
  std::int64_t compress_at = 0;  // 0 = all tokens
  std::int64_t steps = 0;        // tokens after it
  std::int64_t chunk = 0;        // prefill chunk, 0 = one
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;
  std::function<void(const sim::GroupPlan&)> on_plan;
  std::shared_ptr<const Calibration> calibration = nullptr;  // beside synthetic_calibration
};
EngineRun run_engine(std::string_view policy, const SyntheticSource& source, const EngineSetup& setup);

}  // namespace kvgrind::tests
