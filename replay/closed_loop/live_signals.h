// The closed loop's signals: what the running model showed (queries, norms), position by position. A Tap that the
// runtime feeds and a SignalSource that scores ask. A tail (one question on a shared prefix) is a LiveSignals of its
// own over the same prefix: positions below the prefix's end are answered by the prefix. What is watched is fixed at
// the start: the model need not compute what no policy of the prompt reads.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/tap.h"
#include "replay/closed_loop/probe_store.h"
#include "sim/engine/cache_state.h"
#include "sim/engine/policy.h"
#include "sim/engine/signals.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

// What is kept of a run. `sums`: attention sums of the prefix are taken while the model runs; without it they are
// computed from the queries when somebody asks, which costs more and gives the same bits.
struct Watched {
  bool queries = true, norms = true, sums = false;

  // What these policies ask for.
  static Watched by(std::span<const sim::PolicyPtr> policies);
};

class LiveSignals final : public Tap, public sim::SignalSource {
 public:
  LiveSignals(std::shared_ptr<const sim::Model> model, std::vector<Segment> segments, std::vector<Span> spans,
              std::shared_ptr<const LiveSignals> prefix = nullptr, const Watched& watched = {});
  ~LiveSignals() override;

  // The uncompressed cache of the tokens seen so far, for signals that need all keys (column sums). Not copied.
  void set_full_cache(const sim::CacheState* cache) { full_cache_ = cache; }
  bool owns_prefix() const { return !prefix_; }  // no other signals stand below
  void set_probes(std::shared_ptr<const ProbeStore> probes) { probes_ = std::move(probes); }
  // From now on tokens come one by one, and the attention of the newest one is kept until somebody changes its slots:
  // `forget_newest`.
  void watch_newest() { newest_ = true; }
  void forget_newest();
  std::int64_t end() const { return end_; }  // positions [0, end) have been seen

  // Tap
  TapNeeds needs(std::int64_t layer) const override;
  bool wants_probabilities(std::int64_t) const override { return (watched_.sums && !prefix_) || newest_; }
  void begin(const TapPass& pass) override;
  void probabilities(const TapProbabilities& block) override;
  void layer(const TapLayer& shown) override;
  void end(const TapEnd&) override;

  // SignalSource
  const ModelCard& card() const override;
  bool has(sim::Signal signal) const override;
  Array<float, 2> queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const override;
  std::vector<float> column_sums(std::int64_t layer, std::int64_t head, std::int64_t until) const override;
  sim::QueryStatistics query_statistics(std::int64_t layer, std::int64_t head, std::int64_t skip,
                                        std::int64_t until) const override;
  std::pair<std::int64_t, std::int64_t> future(std::int64_t moment) const override;
  sim::AttentionRow newest_attention(std::int64_t layer, std::int64_t head, std::int64_t position) const override;
  std::vector<ProbeColumns> probes(std::int64_t layer, std::int64_t head, sim::Signal kind) const override;
  std::span<const float> hidden_norm(std::int64_t layer) const override;
  std::span<const float> attention_input_norm(std::int64_t layer) const override;
  const Array<float, 2>& output_projection(std::int64_t layer) const override;
  std::span<const Segment> segments() const override { return segments_; }
  std::span<const Span> spans() const override { return spans_; }

 private:
  struct NewestRow {
    std::int64_t position = -1;  // of the query; −1 = none
    std::vector<float> p;
    std::vector<std::int64_t> key_position;
  };
  struct LayerRows {
    std::vector<float> q;                          // [own, Hq, D] post-RoPE
    std::vector<float> hidden_norm, attn_in_norm;  // [end]; the prefix's values in front
    std::vector<std::vector<float>> sums;          // [Hq][end] attention received, where sums are watched
    std::vector<NewestRow> newest;                 // [Hq] where newest rows are watched
  };
  void copy_queries(std::int64_t layer, std::int64_t head, std::int64_t first, View<float, 2> to) const;

  std::shared_ptr<const sim::Model> model_;
  const ModelCard& card_;
  std::vector<Segment> segments_;
  std::vector<Span> spans_;
  std::shared_ptr<const LiveSignals> prefix_;
  std::shared_ptr<const ProbeStore> probes_;
  const sim::CacheState* full_cache_ = nullptr;
  std::int64_t first_ = 0;  // own rows are positions [first_, end_)
  std::int64_t end_ = 0;
  std::int64_t pass_end_ = 0;
  Watched watched_;
  bool newest_ = false;
  std::vector<LayerRows> layers_;

  struct Cache;  // lazily computed, shared by all policies of a prompt
  std::unique_ptr<Cache> cache_;
};

}  // namespace kvgrind::replay
