// The order of a cache's slots says nothing: what a query reads may be handed over in any order.
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "replay/closed_loop/compression.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

using tests::tiny;

// Hands out the slots of another cache in a new order every time.
class ShuffledCache final : public sim::KvCache {
 public:
  ShuffledCache(sim::KvCache& inner, std::uint64_t seed)
      : inner_(inner), rng_(seed), shown_(static_cast<std::size_t>(inner.heads())) {}

  std::int64_t heads() const override { return inner_.heads(); }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override {
    inner_.append(layer, first, k, v);
  }
  void before_attention(std::int64_t layer, std::int64_t first, View<const float, 3> q) override {
    inner_.before_attention(layer, first, q);
  }
  void layer_done(std::int64_t layer, std::int64_t first, View<const float, 3> q) override {
    inner_.layer_done(layer, first, q);
  }
  sim::GroupView read(std::int64_t layer, std::int64_t head) const override {
    const sim::GroupView in = inner_.read(layer, head);
    const auto n = static_cast<std::int64_t>(in.position.size());
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng_);
    Shown& out = shown_[static_cast<std::size_t>(head)];
    out.k = Array<float, 2>({n, in.k.extent(1)});
    out.v = Array<float, 2>({n, in.v.extent(1)});
    out.position.resize(static_cast<std::size_t>(n));
    out.log_count.resize(in.log_count ? static_cast<std::size_t>(n) : 0);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t from = order[static_cast<std::size_t>(i)];
      for (std::int64_t d = 0; d < in.k.extent(1); ++d) {
        out.k(i, d) = in.k(from, d);
        out.v(i, d) = in.v(from, d);
      }
      out.position[static_cast<std::size_t>(i)] = in.position[static_cast<std::size_t>(from)];
      if (in.log_count) out.log_count[static_cast<std::size_t>(i)] = in.log_count[from];
    }
    return {out.k.view(), out.v.view(), out.position, in.log_count ? out.log_count.data() : nullptr};
  }

 private:
  struct Shown {
    Array<float, 2> k, v;
    std::vector<std::int64_t> position;
    std::vector<float> log_count;
  };
  sim::KvCache& inner_;
  mutable std::mt19937_64 rng_;
  mutable std::vector<Shown> shown_;
};

class ClosedShuffle : public ::testing::Test {
 protected:
  ClosedShuffle() : prompt_(tests::small_prompt(136, 1)) {
    const auto& question = prompt_.questions[0];
    tail_ = question.question;
    tail_.insert(tail_.end(), question.answer.begin(), question.answer.end());
    const auto n = static_cast<std::int64_t>(prompt_.context.size());
    full_ = std::make_unique<sim::CacheState>(sim::model_config(*tiny()).card);
    signals_ = std::make_shared<LiveSignals>(tiny(), std::vector<Segment>{{Role::context, 0, n}}, prompt_.spans);
    (void)sim::prefill(*tiny(), {.ids = prompt_.context, .cache = full_.get(), .tap = signals_.get()});
    signals_->set_full_cache(full_.get());
    const auto passes = std::make_shared<ProbeStore>();
    for (const ProbeKind kind : {ProbeKind::repeat, ProbeKind::reread, ProbeKind::episode})
      run_probes({*tiny(), {}, *full_, 512}, {prompt_.context, 0, prompt_.spans}, {}, kind, *passes);
    probes_ = passes;
  }

  // Logits of all tail tokens over the policy's cache, slots in order or not.
  std::vector<float> logits(const sim::PolicyPtr& policy, bool shuffled) const {
    const auto n = static_cast<std::int64_t>(prompt_.context.size());
    LiveSignals signals(tiny(), {{Role::context, 0, n}}, prompt_.spans, signals_);
    signals.set_probes(probes_);
    PolicyCache cache(cache_at_start(*policy, *full_), {policy, {sim::Amount::Kind::fraction, 0.4}, 3, 0}, signals);
    compress(*policy, cache, *full_, {n, n, Role::context});
    sim::CacheState settled(cache.state());
    const bool steps = sim::needs_steps(*policy);
    sim::KvCache& own = steps ? static_cast<sim::KvCache&>(cache) : settled;
    ShuffledCache other(own, 11);
    std::vector<float> out;
    const auto rows = static_cast<std::int64_t>(tail_.size()), stride = steps ? 1 : rows;
    for (std::int64_t at = 0; at < rows; at += stride) {
      sim::Feed feed{.first = n + at,
                     .ids = std::span(tail_).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(stride)),
                     .cache = shuffled ? &other : &own,
                     .tap = &signals,
                     .decode = steps};
      for (std::int64_t i = 0; i < stride; ++i) feed.logits_of.push_back(i);
      const auto given = sim::forward(*tiny(), std::span(&feed, 1));
      out.insert(out.end(), given[0].data(), given[0].data() + given[0].size());
      if (steps) cache.run().step_done(n + at);
    }
    return out;
  }

  void expect_no_change(const std::string& text) const {
    SCOPED_TRACE(text);
    const auto policy = tests::closed_policy(text);
    const auto straight = logits(policy, false), mixed = logits(policy, true);
    ASSERT_EQ(straight.size(), mixed.size());
    float largest = 0, scale = 0;  // as a share of the largest logit: fp32 sums in another order
    for (const float x : straight) scale = std::max(scale, std::abs(x));
    for (std::size_t i = 0; i < straight.size(); ++i) largest = std::max(largest, std::abs(straight[i] - mixed[i]));
    EXPECT_LT(largest, 1e-5f * scale);
    EXPECT_GT(largest, 0.0f);  // the order did change
  }

  SuitePrompt prompt_;
  std::vector<std::int32_t> tail_;
  std::unique_ptr<sim::CacheState> full_;
  std::shared_ptr<LiveSignals> signals_;
  std::shared_ptr<const ProbeStore> probes_;
};

TEST_F(ClosedShuffle, ChangesNoLogitOfAnyPreset) {
  for (const std::string& preset : tests::closed_presets()) expect_no_change(preset);
}

TEST_F(ClosedShuffle, ChangesNoLogitUnderAnySchedule) {
  for (const char* schedule : tests::schedules)
    for (const char* score : {"key_norm", "window_attention(window=16)", "last_query"})
      expect_no_change(tests::line_of(score, schedule));
}

}  // namespace
}  // namespace kvgrind::replay
