// The policy's cache: plans applied, states of every token, bytes, windows, query-head copies, forks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/attention/attention.h"
#include "sim/codec/affine_codec.h"
#include "tests/support/for_all.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

using sim::CacheState;
using sim::Content;
using sim::GroupPlan;
using sim::Part;
using sim::Tier;
using testing::ElementsAre;

constexpr auto content_of = [](std::uint8_t state) { return static_cast<Content>(state & 15); };

struct Cached {
  SyntheticSource source;
  CacheState cache;
  Cached(const SyntheticShape& shape, sim::Granularity granularity = sim::Granularity::kv_head, std::int64_t page = 1)
      : source([&] {
          std::mt19937_64 rng(77);
          return random_data(rng, shape);
        }()),
        cache(source.card(), granularity, page) {}
};

GroupPlan keep_all(const CacheState& cache, std::int64_t layer, std::int64_t group) {
  GroupPlan plan{.layer = layer, .group = group};
  plan.keep.assign(static_cast<std::size_t>(cache.group(layer, group).size()), 1);
  return plan;
}

Array<float, 2> attend(const CacheState& cache, std::int64_t layer, std::int64_t head, const Array<float, 2>& q,
                       std::int64_t position) {
  const sim::GroupView view = cache.read(layer, head);
  const std::vector<std::int64_t> at{position};
  Array<float, 2> out({1, q.extent(1)});
  kernels::AttentionParams params;
  params.q = q;
  params.q_position = at;
  params.k = view.k;
  params.v = view.v;
  params.k_position = view.position;
  params.log_count = view.log_count;
  params.scale = cache.card().scale;
  params.out = out.view();
  kernels::attention_ref(params);
  return out;
}

TEST(CacheState, DropLeavesTheOthersAsTheyWere) {
  Cached c({.tokens = 10});
  c.source.feed(c.cache, 0, 10);
  GroupPlan plan = keep_all(c.cache, 1, 0);
  plan.keep[3] = plan.keep[7] = 0;
  c.cache.apply(plan);
  const sim::GroupSlots& slots = c.cache.group(1, 0);
  EXPECT_THAT(slots.position, ElementsAre(0, 1, 2, 4, 5, 6, 8, 9));
  for (std::int64_t i = 0; i < slots.size(); ++i)
    for (std::int64_t d = 0; d < 8; ++d) {
      EXPECT_EQ(slots.keys()(i, d), c.source.data().k[2](slots.position[static_cast<std::size_t>(i)], d));
      EXPECT_EQ(slots.values()(i, d), c.source.data().v[2](slots.position[static_cast<std::size_t>(i)], d));
    }
  EXPECT_EQ(c.cache.group(1, 1).size(), 10);
  const auto states = c.cache.token_states(1, 0, Part::key);
  EXPECT_THAT(states, ElementsAre(1, 1, 1, 0, 1, 1, 1, 0, 1, 1));
  const sim::Ledger ledger = c.cache.ledger();
  ledger.check();
  EXPECT_EQ(ledger.k.tokens[0][0], 2);
  EXPECT_EQ(ledger.k.tokens[1][0], 38);
  EXPECT_EQ(ledger.token_groups, 40);
  EXPECT_EQ(ledger.full_bytes, 40 * 32);
  EXPECT_EQ(ledger.stored_bytes(), 38 * 32);
  c.source.data();
}

TEST(CacheState, ACopyIsAFork) {
  Cached c({.tokens = 12});
  c.source.feed(c.cache, 0, 8);
  CacheState fork = c.cache;
  GroupPlan plan = keep_all(fork, 0, 0);
  plan.keep[0] = 0;
  fork.apply(plan);
  c.source.feed(fork, 8, 4);
  EXPECT_EQ(c.cache.group(0, 0).size(), 8);
  EXPECT_EQ(fork.group(0, 0).size(), 11);
  EXPECT_EQ(fork.tokens(0), 12);
  EXPECT_EQ(c.cache.tokens(0), 8);
}

TEST(CacheState, BadPlansAreOurMistakes) {
  Cached c({.tokens = 6});
  c.source.feed(c.cache, 0, 6);
  GroupPlan plan = keep_all(c.cache, 0, 0);
  plan.keep.pop_back();
  EXPECT_THROW(c.cache.apply(plan), std::logic_error);
  plan = keep_all(c.cache, 0, 0);
  plan.merges = {{.from = 6, .into = 1}};
  EXPECT_THROW(c.cache.apply(plan), std::logic_error);
  plan.merges = {{.from = 2, .into = 1}};
  plan.keep[1] = 0;
  EXPECT_THROW(c.cache.apply(plan), std::logic_error);
  plan = keep_all(c.cache, 0, 0);
  plan.k_codec.assign(6, 0);
  EXPECT_THROW(c.cache.apply(plan), std::logic_error);
  plan = keep_all(c.cache, 0, 0);
  plan.rotary.assign(5, 0);
  EXPECT_THROW(c.cache.apply(plan), std::logic_error);
}

TEST(CacheState, MergeOfEqualKeysWithCountBiasIsFullAttention) {
  // Slots 2 and 5 get the key of slot 3; merged with weights 1/3 and counts, attention stays as it was.
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = 9, .rotary_dim = 0};
  std::mt19937_64 rng(3);
  SyntheticData data = random_data(rng, shape);
  for (std::int64_t d = 0; d < 8; ++d) data.k[0](2, d) = data.k[0](5, d) = data.k[0](3, d);
  const SyntheticSource source(data);
  CacheState full(source.card()), merged(source.card());
  source.feed(full, 0, 8);
  source.feed(merged, 0, 8);
  merged.set_count_bias(true);
  GroupPlan plan = keep_all(merged, 0, 0);
  plan.keep[2] = plan.keep[5] = 0;
  constexpr float third = 1.0f / 3.0f;
  plan.merges = {{.from = 3, .into = 3, .k_weight = third, .v_weight = third},
                 {.from = 2, .into = 3, .k_weight = third, .v_weight = third},
                 {.from = 5, .into = 3, .k_weight = third, .v_weight = third}};
  merged.apply(plan);
  EXPECT_EQ(merged.group(0, 0).count[2], 3.0f);
  const Array<float, 2> q = source.queries(0, 0, 8, 1);
  const auto a = attend(full, 0, 0, q, 8), b = attend(merged, 0, 0, q, 8);
  for (std::int64_t d = 0; d < 8; ++d) EXPECT_NEAR(a(0, d), b(0, d), 1e-5);
  EXPECT_EQ(content_of(merged.token_states(0, 0, Part::key)[3]), Content::merged);
  EXPECT_EQ(content_of(merged.token_states(0, 0, Part::value)[3]), Content::merged);
  EXPECT_EQ(content_of(merged.token_states(0, 0, Part::value)[2]), Content::dropped);
  merged.ledger().check();
}

TEST(CacheState, MergeOfValuesAloneLeavesKeys) {
  Cached c({.layers = 1, .tokens = 6});
  c.source.feed(c.cache, 0, 6);
  GroupPlan plan = keep_all(c.cache, 0, 0);
  plan.keep[1] = 0;
  // No term from the destination itself: it keeps weight 1. V = (4, 2, …)/2 on top of each of the next two.
  plan.merges = {{.from = 1, .into = 2, .v_weight = 0.5f, .count_weight = 0},
                 {.from = 1, .into = 3, .v_weight = 0.5f, .count_weight = 0}};
  c.cache.apply(plan);
  const sim::GroupSlots& slots = c.cache.group(0, 0);
  const Array<float, 2>& v = c.source.data().v[0];
  for (std::int64_t d = 0; d < 8; ++d) {
    EXPECT_EQ(slots.keys()(1, d), c.source.data().k[0](2, d));
    EXPECT_NEAR(slots.values()(1, d), v(2, d) + 0.5f * v(1, d), 1e-6);
    EXPECT_NEAR(slots.values()(2, d), v(3, d) + 0.5f * v(1, d), 1e-6);
  }
  EXPECT_EQ(content_of(c.cache.token_states(0, 0, Part::key)[2]), Content::exact);
  EXPECT_EQ(content_of(c.cache.token_states(0, 0, Part::value)[2]), Content::merged);
  EXPECT_EQ(slots.count[1], 1.0f);
}

// A low-rank stand-in with shared state, to see what is charged for it.
class SharedCodec final : public sim::Codec {
 public:
  explicit SharedCodec(Unit unit) : unit_(unit) {}
  std::string text() const override { return "shared" + std::to_string(static_cast<int>(unit_)); }
  void encode(Part, View<float, 2>) const override {}
  std::int64_t stored_bytes(Part, std::int64_t n, std::int64_t) const override { return 3 * n; }
  std::int64_t ideal_bytes(Part, std::int64_t n, std::int64_t) const override { return 2 * n; }
  Unit unit() const override { return unit_; }
  std::int64_t shared_bytes(Part, std::int64_t) const override { return 1000; }

 private:
  Unit unit_;
};

TEST(CacheState, KeysAndValuesHaveStatesOfTheirOwn) {
  // ShadowKV's shape: low-rank keys on the device, values on the host.
  for (const auto& [unit, copies] : {std::pair{sim::Codec::Unit::group, 4}, std::pair{sim::Codec::Unit::layer, 2},
                                     std::pair{sim::Codec::Unit::model, 1}}) {
    Cached c({.tokens = 10});
    c.source.feed(c.cache, 0, 10);
    const auto codec = std::make_shared<SharedCodec>(unit);
    for (std::int64_t layer = 0; layer < 2; ++layer)
      for (std::int64_t group = 0; group < 2; ++group) {
        GroupPlan plan = keep_all(c.cache, layer, group);
        plan.codecs = {codec};
        plan.k_codec.assign(10, 0);
        plan.v_tier.assign(10, Tier::host);
        c.cache.apply(plan);
      }
    const sim::Ledger ledger = c.cache.ledger();
    ledger.check();
    EXPECT_EQ(ledger.k.tokens[3][0], 40);
    EXPECT_EQ(ledger.v.tokens[1][1], 40);
    EXPECT_EQ(ledger.k.stored_bytes, 40 * 3 + copies * 1000);
    EXPECT_EQ(ledger.k.ideal_bytes, 40 * 2);
    EXPECT_EQ(ledger.v.stored_bytes, 40 * 16);
    EXPECT_EQ(ledger.moved_bytes, 40 * 16);
    EXPECT_EQ(c.cache.token_states(0, 0, Part::value)[0], 1 + 16);
    EXPECT_EQ(c.cache.token_states(0, 0, Part::key)[0], 3);
    c.cache.begin_step();
    EXPECT_EQ(c.cache.ledger().moved_bytes, 0);
    // A read of two slots touches their keys here and fetches their values from the host.
    const std::vector<std::int32_t> slots{2, 5};
    const sim::SlotBytes bytes = c.cache.slot_bytes(0, 1, slots);
    EXPECT_EQ(bytes.stored, 2 * (3 + 16));
    EXPECT_EQ(bytes.elsewhere, 2 * 16);
    c.cache.note_read(0, bytes);
    EXPECT_EQ(c.cache.ledger().moved_bytes, 2 * 16);
    EXPECT_EQ(c.cache.ledger().touched_bytes, 2 * (3 + 16) + 20 * (3 + 16));
  }
}

TEST(CacheState, RecomputableTokensStoreNothing) {
  Cached c({.layers = 1, .tokens = 4});
  c.source.feed(c.cache, 0, 4);
  GroupPlan plan = keep_all(c.cache, 0, 0);
  plan.recompute = {1, 0, 0, 0};
  c.cache.apply(plan);
  EXPECT_EQ(c.cache.group(0, 0).size(), 4);  // attention still reads it
  EXPECT_EQ(c.cache.ledger().stored_bytes(), 7 * 32);
  EXPECT_EQ(content_of(c.cache.token_states(0, 0, Part::key)[0]), Content::recomputable);
}

TEST(CacheState, PagesRoundUp) {
  Cached c({.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = 10}, sim::Granularity::kv_head, 4);
  c.source.feed(c.cache, 0, 10);
  GroupPlan plan = keep_all(c.cache, 0, 0);
  plan.keep[0] = 0;
  c.cache.apply(plan);
  EXPECT_EQ(c.cache.ledger().ideal_bytes(), 9 * 32);
  EXPECT_EQ(c.cache.ledger().stored_bytes(), 12 * 32);
}

TEST(CacheState, QueryHeadsStoreCopies) {
  Cached c({.layers = 1, .tokens = 5}, sim::Granularity::query_head);
  c.source.feed(c.cache, 0, 5);
  EXPECT_EQ(c.cache.heads(), 4);
  const sim::Ledger ledger = c.cache.ledger();
  EXPECT_EQ(ledger.full_bytes, 2 * 5 * 32);
  EXPECT_EQ(ledger.stored_bytes(), 4 * 5 * 32);
  EXPECT_EQ(ledger.token_groups, 20);
  for (std::int64_t d = 0; d < 8; ++d) {
    EXPECT_EQ(c.cache.group(0, 1).keys()(2, d), c.source.data().k[0](2, d));
    EXPECT_EQ(c.cache.group(0, 2).keys()(2, d), c.source.data().k[1](2, d));
  }
}

TEST(CacheState, ASharedCacheSplitsIntoQueryHeads) {
  Cached shared({.tokens = 8}), split({.tokens = 8}, sim::Granularity::query_head);
  shared.source.feed(shared.cache, 0, 6);
  split.source.feed(split.cache, 0, 6);
  CacheState copy(shared.cache, sim::Granularity::query_head);
  shared.source.feed(copy, 6, 2);
  split.source.feed(split.cache, 6, 2);
  ASSERT_EQ(copy.heads(), 4);
  for (std::int64_t layer = 0; layer < 2; ++layer)
    for (std::int64_t head = 0; head < 4; ++head) {
      EXPECT_EQ(copy.group(layer, head).k, split.cache.group(layer, head).k);
      EXPECT_EQ(copy.group(layer, head).v, split.cache.group(layer, head).v);
    }
  EXPECT_EQ(CacheState(shared.cache, sim::Granularity::kv_head).heads(), 2);
  EXPECT_THROW((void)CacheState(copy, sim::Granularity::kv_head), std::logic_error);
}

TEST(CacheState, TokensOutsideTheWindowExpire) {
  Cached c({.tokens = 12, .window = 4});  // the last layer's
  for (std::int64_t t = 0; t < 12; ++t) {
    c.source.feed(c.cache, t, 1);
    // The newest query sees itself and three before it; what it cannot see has left.
    EXPECT_EQ(c.cache.group(1, 0).size(), std::min<std::int64_t>(t + 1, 4));
    EXPECT_EQ(c.cache.reach(1), std::min<std::int64_t>(t + 1, 3));
    EXPECT_EQ(c.cache.group(0, 0).size(), t + 1);
    c.cache.ledger().check();
  }
  EXPECT_THAT(c.cache.token_states(1, 1, Part::value), ElementsAre(5, 5, 5, 5, 5, 5, 5, 5, 1, 1, 1, 1));
  EXPECT_EQ(c.cache.ledger().full_bytes, (12 + 4) * 2 * 32);
  // A token that a policy dropped first stays `dropped`.
  GroupPlan plan = keep_all(c.cache, 1, 1);
  plan.keep[1] = 0;
  c.cache.apply(plan);
  c.cache.expire(1, 20);
  EXPECT_THAT(c.cache.token_states(1, 1, Part::key), ElementsAre(5, 5, 5, 5, 5, 5, 5, 5, 5, 0, 5, 5));
}

TEST(CacheState, RotationThereAndBackIsTheIdentity) {
  Cached c({.layers = 1, .tokens = 6});
  c.source.feed(c.cache, 0, 6);
  const std::vector<float> before = c.cache.group(0, 0).k;
  GroupPlan plan = keep_all(c.cache, 0, 0);
  plan.rotary = {9, 8, 7, 3, 4, 5};
  c.cache.apply(plan);
  EXPECT_THAT(c.cache.group(0, 0).rotary, ElementsAre(9, 8, 7, 3, 4, 5));
  EXPECT_THAT(c.cache.group(0, 0).position, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_GT(std::abs(c.cache.group(0, 0).k[0] - before[0]), 1e-2);
  plan.rotary = {0, 1, 2, 3, 4, 5};
  c.cache.apply(plan);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(c.cache.group(0, 0).k[i], before[i], 1e-4);
}

TEST(AffineCodec, PackedBytesAreWhatIsCharged) {
  for_all(31, 60, [](std::mt19937_64& rng) {
    const std::int64_t n = 1 + static_cast<std::int64_t>(rng() % 40), dim = 1 + static_cast<std::int64_t>(rng() % 20);
    const int bits = 1 + static_cast<int>(rng() % 8);
    const auto axis = rng() % 2 ? sim::AffineCodec::Axis::token : sim::AffineCodec::Axis::channel;
    const sim::AffineCodec codec(bits, 1 + static_cast<std::int64_t>(rng() % 16), axis);
    Array<float, 2> x({n, dim});
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(rng) * (i % 7 == 0 ? 20.0f : 1.0f);
    const auto packed = codec.pack(x);
    EXPECT_EQ(static_cast<std::int64_t>(packed.size()), codec.stored_bytes(Part::key, n, dim));
    EXPECT_LE(codec.ideal_bytes(Part::key, n, dim), codec.stored_bytes(Part::key, n, dim));
    Array<float, 2> encoded = x;
    codec.encode(Part::key, encoded.view());
    const Array<float, 2> decoded = codec.unpack(packed, n, dim);
    const auto [low, high] = std::minmax_element(x.data(), x.data() + x.size());
    const float step = (*high - *low) / static_cast<float>((1 << bits) - 1);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t d = 0; d < dim; ++d) {
        EXPECT_EQ(encoded(i, d), decoded(i, d));
        // Half a step of the widest group, and the rounding of minimum and step to fp16.
        EXPECT_LE(std::abs(decoded(i, d) - x(i, d)), step * 0.51f + (std::abs(*low) + std::abs(*high)) * 0x1p-9f);
      }
  });
}

TEST(AffineCodec, TwoBitsByHand) {
  Array<float, 2> x({1, 4});
  x(0, 0) = 0, x(0, 1) = 1, x(0, 2) = 2, x(0, 3) = 3;
  const sim::AffineCodec codec(2, 4, sim::AffineCodec::Axis::token);
  const auto packed = codec.pack(x);
  ASSERT_EQ(packed.size(), 5u);
  EXPECT_EQ(packed[0], std::byte{0b11100100});
  EXPECT_EQ(codec.stored_bytes(Part::key, 128, 64), 128 * (16 + 16 * 4));
}

}  // namespace
}  // namespace kvgrind::tests
