// What a cache may show the runtime, and what a tap is shown: order of events, slots in any order, heads of any kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>

#include "kernels/rope/rope.h"
#include "tests/sim/model_support.h"

namespace kvgrind::tests {
namespace {

struct ShownSlot {
  std::int64_t slot = 0;
  float log_count = 0.0f;
};

// A full cache that shows chosen slots: `choose(head, n)` of n held ones, once per KV head or once per query head.
class ChoosingCache final : public sim::KvCache {
 public:
  using Choose = std::function<std::vector<ShownSlot>(std::int64_t head, std::int64_t n)>;
  ChoosingCache(const ModelCard& card, bool per_query_head, bool counts, Choose choose)
      : inside_(card),
        heads_(per_query_head ? card.query_heads : card.kv_heads),
        counts_(counts),
        choose_(std::move(choose)) {}
  std::int64_t heads() const override { return heads_; }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override {
    inside_.append(layer, first, k, v);
  }
  void before_attention(std::int64_t layer, std::int64_t, View<const float, 3>) override {
    shown_.assign(static_cast<std::size_t>(heads_), {});
    for (std::int64_t h = 0; h < heads_; ++h) {
      const sim::GroupView all = inside_.read(layer, h * inside_.heads() / heads_);
      Shown& to = shown_[static_cast<std::size_t>(h)];
      for (const ShownSlot& slot : choose_(h, inside_.size(layer))) {
        to.position.push_back(all.position[static_cast<std::size_t>(slot.slot)]);
        to.log_count.push_back(slot.log_count);
        for (std::int64_t d = 0; d < all.k.extent(1); ++d) {
          to.k.push_back(all.k(slot.slot, d));
          to.v.push_back(all.v(slot.slot, d));
        }
      }
    }
  }
  sim::GroupView read(std::int64_t, std::int64_t head) const override {
    const Shown& from = shown_[static_cast<std::size_t>(head)];
    const auto n = static_cast<std::int64_t>(from.position.size());
    const auto dim = static_cast<std::int64_t>(from.k.size()) / n;
    return {
        {from.k.data(), {n, dim}}, {from.v.data(), {n, dim}}, from.position, counts_ ? from.log_count.data() : nullptr};
  }

 private:
  struct Shown {
    std::vector<float> k, v, log_count;
    std::vector<std::int64_t> position;
  };
  sim::FullCache inside_;
  std::int64_t heads_;
  bool counts_;
  Choose choose_;
  std::vector<Shown> shown_;
};

Array<float, 2> run(const sim::Model& model, std::span<const std::int32_t> ids, sim::KvCache&& cache) {
  const sim::Feed feed{.ids = ids, .cache = &cache, .logits_of = all_rows(static_cast<std::int64_t>(ids.size()))};
  return std::move(sim::forward(model, {&feed, 1})[0]);
}

std::vector<ShownSlot> in_order(std::int64_t, std::int64_t n) {
  std::vector<ShownSlot> slots;
  for (std::int64_t i = 0; i < n; ++i) slots.push_back({i});
  return slots;
}
std::vector<ShownSlot> shuffled(std::int64_t head, std::int64_t n) {
  auto slots = in_order(head, n);
  std::mt19937_64 rng(static_cast<std::uint64_t>(head) + 3);
  std::shuffle(slots.begin(), slots.end(), rng);
  return slots;
}

// Largest difference of a shuffled cache from a plain one, as a share of the largest logit.
double change_by_shuffling(const sim::Model& model, std::span<const std::int32_t> ids) {
  const ModelCard& card = sim::model_config(model).card;
  const Array<float, 2> plain = whole_pass(model, ids);
  double largest = 1.0, change = 0.0;
  for (const float logit : flat(plain)) largest = std::max(largest, std::abs(static_cast<double>(logit)));
  for (const bool per_query_head : {false, true}) {
    const auto ordered = run(model, ids, ChoosingCache(card, per_query_head, false, in_order));
    EXPECT_EQ(largest_difference(flat(ordered), flat(plain)), 0.0);
    const auto mixed = run(model, ids, ChoosingCache(card, per_query_head, false, shuffled));
    const double difference = largest_difference(flat(mixed), flat(plain));
    if (!(difference <= change)) change = difference;
  }
  return change / largest;
}

TEST(ModelCache, SlotOrderDoesNotMatter) {
  RandomModel random(3);
  random.config.card.layer[1].window = 25;
  const double change = change_by_shuffling(*random.fill().build(), random_ids(150, random.config.card.vocab));
  EXPECT_TRUE(change <= 1e-5) << change;
  EXPECT_GT(change, 0.0);
}

TEST(ModelCache, SlotOrderDoesNotMatterToARealModel) {
  const LoadedModel loaded = load_model(tiny_3m());
  const double change = change_by_shuffling(*loaded.model, random_ids(200, loaded.config.card.vocab));
  EXPECT_TRUE(change <= 1e-5) << change;
}

// A slot of count 2 is two equal slots. Heads differ in how many slots they show.
TEST(ModelCache, CountsAndRaggedHeads) {
  RandomModel random(2);
  const auto model = random.fill().build();
  const auto ids = random_ids(40, random.config.card.vocab);
  const auto choose = [](bool counted, bool doubled) {
    return [=](std::int64_t head, std::int64_t n) {
      std::vector<ShownSlot> slots;
      for (std::int64_t i = 0; i < n; ++i) {
        if (head == 1 && i % 3 == 1) continue;
        slots.push_back({i, counted && i % 2 == 0 ? std::log(2.0f) : 0.0f});
        if (doubled && i % 2 == 0) slots.push_back({i});
      }
      return slots;
    };
  };
  const ModelCard& card = random.config.card;
  const auto counted = run(*model, ids, ChoosingCache(card, false, true, choose(true, false)));
  const auto doubled = run(*model, ids, ChoosingCache(card, false, false, choose(false, true)));
  const auto neither = run(*model, ids, ChoosingCache(card, false, false, choose(false, false)));
  const double difference = largest_difference(flat(counted), flat(doubled));
  EXPECT_TRUE(difference <= 1e-5) << difference;
  EXPECT_GT(largest_difference(flat(counted), flat(neither)), 1e-2);
  EXPECT_GT(largest_difference(flat(neither), flat(whole_pass(*model, ids))), 1e-2);
}

// With one cache head per query head, each query head reads its own.
TEST(ModelCache, QueryHeadReadsItsOwnCacheHead) {
  RandomModel random(1);
  const ModelCard& card = random.config.card;
  const auto model = random.fill().build();
  const auto ids = random_ids(10, card.vocab);
  // Query head 2 sees nothing but the newest token: its LSE is that one logit, the others' is not.
  const auto choose = [](std::int64_t head, std::int64_t n) {
    std::vector<ShownSlot> slots;
    for (std::int64_t i = head == 2 ? n - 1 : 0; i < n; ++i) slots.push_back({i});
    return slots;
  };
  ChoosingCache cache(card, true, false, choose);
  KeepingTap tap(1), plain(1);
  const sim::Feed feed{.ids = ids, .cache = &cache, .tap = &tap};
  sim::forward(*model, {&feed, 1});
  whole_pass(*model, ids, &plain);
  const auto last_lse = [&](const KeepingTap& from, std::size_t head) { return from.at(0).lse[9 * 4 + head]; };
  for (const std::size_t head : {0, 1, 3}) EXPECT_EQ(last_lse(tap, head), last_lse(plain, head));
  double logit = 0.0;
  for (std::size_t d = 0; d < 12; ++d)
    logit += double{plain.at(0).q[(9 * 4 + 2) * 12 + d]} * plain.at(0).k[(9 * 2 + 1) * 12 + d] * card.scale;
  EXPECT_NEAR(last_lse(tap, 2), logit, 1e-5);
}

TEST(ModelCache, CopiedCacheSharesNothing) {
  RandomModel random(2);
  const auto model = random.fill().build();
  const auto ids = random_ids(60, random.config.card.vocab);
  sim::FullCache context(random.config.card);
  sim::prefill(*model, {.ids = std::span(ids).first(40), .cache = &context});
  const auto finish = [&](sim::FullCache cache, std::int32_t last) {
    const std::vector<std::int32_t> tail = {ids[40], last};
    const sim::Feed feed{.first = 40, .ids = tail, .cache = &cache, .logits_of = {1}};
    auto logits = std::move(sim::forward(*model, {&feed, 1})[0]);
    EXPECT_EQ(cache.size(1), 42);
    return logits;
  };
  const auto first = finish(context, 3);
  EXPECT_GT(largest_difference(flat(finish(context, 4)), flat(first)), 0.0);
  EXPECT_EQ(largest_difference(flat(finish(context, 3)), flat(first)), 0.0);
  EXPECT_EQ(context.size(0), 40);
  context.truncate(30);
  EXPECT_EQ(context.size(1), 30);
  EXPECT_EQ(context.read(1, 1).position.size(), 30u);
}

TEST(ModelTap, TapShowsWhatWasComputed) {
  RandomModel random(3);
  random.config.qk_norm = true;
  const ModelCard& card = random.config.card;
  const auto model = random.fill().build();
  const auto ids = random_ids(70, card.vocab);
  KeepingTap tap(3);
  whole_pass(*model, ids, &tap);
  for (std::int64_t l = 0; l < 3; ++l) {
    const KeepingTap::Layer& shown = tap.at(l);
    EXPECT_EQ(shown.blocks, 0) << "probabilities were not asked for";
    // q is q_pre rotated.
    std::vector<float> rotated = shown.q_pre;
    kernels::rope_apply(card.rope[0], all_rows(70), {rotated.data(), {70, card.query_heads, card.head_dim}});
    EXPECT_TRUE(largest_difference(rotated, shown.q) <= 1e-6);
    EXPECT_NE(shown.q, shown.q_pre);
    // attn_in is the normed input.
    const auto weight = sim::attention_norm(*model, l);
    for (std::int64_t t = 0; t < 70; ++t) {
      double square = 0.0;
      for (std::int64_t i = 0; i < card.hidden; ++i)
        square += std::pow(shown.input[static_cast<std::size_t>(t * card.hidden + i)], 2);
      const double factor = 1.0 / std::sqrt(square / static_cast<double>(card.hidden) + 1e-6);
      const auto at = static_cast<std::size_t>(t * card.hidden);
      EXPECT_NEAR(shown.attn_in[at], shown.input[at] * factor * weight[0], 1e-5);
    }
  }
  // attn_out of a lone first token is W_O times the values of its group.
  const Array<float, 2> w = sim::output_projection(*model, 0);
  double expected = 0.0;
  for (std::int64_t c = 0; c < w.extent(1); ++c) {
    const std::int64_t head = c / card.head_dim / card.group(), d = c % card.head_dim;
    expected += static_cast<double>(w(3, c)) * tap.at(0).v[static_cast<std::size_t>(head * card.head_dim + d)];
  }
  EXPECT_NEAR(tap.at(0).attn_out[3], expected, 1e-5);
  EXPECT_EQ(tap.logit_rows, all_rows(70));
  EXPECT_EQ(tap.final_residual.size(), static_cast<std::size_t>(70 * card.hidden));
}

// Events of the cache and the tap in their order.
class OrderedCache final : public sim::KvCache {
 public:
  OrderedCache(const ModelCard& card, std::string& log) : inside_(card), log_(log) {}
  std::int64_t heads() const override { return inside_.heads(); }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override {
    log_ += 'a';
    inside_.append(layer, first, k, v);
  }
  void before_attention(std::int64_t, std::int64_t, View<const float, 3>) override { log_ += 'b'; }
  sim::GroupView read(std::int64_t layer, std::int64_t head) const override {
    log_ += 'r';
    return inside_.read(layer, head);
  }
  void layer_done(std::int64_t, std::int64_t, View<const float, 3>) override { log_ += 'd'; }

 private:
  sim::FullCache inside_;
  std::string& log_;
};
class OrderedTap final : public Tap {
 public:
  explicit OrderedTap(std::string& log) : log_(log) {}
  bool wants_probabilities(std::int64_t layer) const override { return layer == 1; }
  void begin(const TapPass&) override { log_ += '('; }
  void probabilities(const TapProbabilities& shown) override {
    EXPECT_EQ(shown.first % 64 == 0 || shown.first == 10, true);
    ++blocks[static_cast<std::size_t>(shown.head)];
  }
  void layer(const TapLayer&) override { log_ += 'l'; }
  void end(const TapEnd& shown) override {
    log_ += ')';
    EXPECT_EQ(shown.logits.extent(0), 2);
  }
  std::array<std::atomic<int>, 4> blocks{};

 private:
  std::string& log_;
};

TEST(ModelTap, OrderOfEvents) {
  RandomModel random(2);
  const auto model = random.fill().build();
  std::string log;
  OrderedCache cache(random.config.card, log);
  OrderedTap tap(log);
  const auto ids = random_ids(120, random.config.card.vocab);
  const sim::Feed feed{.first = 10, .ids = ids, .cache = &cache, .tap = &tap, .logits_of = {3, 1}};
  sim::forward(*model, {&feed, 1});
  EXPECT_EQ(log, "(abrrldabrrld)");
  for (const auto& blocks : tap.blocks) EXPECT_EQ(blocks, 3);  // [10, 64), [64, 128), [128, 130)
}

}  // namespace
}  // namespace kvgrind::tests
