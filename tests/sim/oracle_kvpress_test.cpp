// Worked examples of methods that NVIDIA/kvpress brings beside the published ones, on the fixture T8: kept sets and
// scores computed by hand from the formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(SimLayerKv, ALayerThatLooksAtSinksAndRecentsKeepsThoseAlone) {
  EXPECT_NEAR(columns(attention(), "sink_recent_mass(last=1,sinks=1,recent=2)").figures.at("mass"), 0.3, 1e-6);
  EXPECT_THAT(kept(attention(), "simlayerkv(threshold=0.25,sinks=1,recent=2)", "1"), ElementsAre(0, 7));
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=0.31,sinks=1,recent=2)", "0.1").size(), 8u);
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=0.01,sinks=3,recent=4)", "0.1").size(), 8u);  // too short to cut
  EXPECT_EQ(kept(attention(), "simlayerkv(threshold=1,sinks=1,recent=2)", "0.1").size(), 8u);
}

TEST(Chunkwise, EveryChunkKeepsItsShareByItsOwnScores) {
  // Norms 1 1 √2 | 2 2 1 | √2 5, smaller is better; half of three is one.
  EXPECT_THAT(kept(geometry(), "chunkwise(score=key_norm,size=3)", "0.5"), ElementsAre(0, 5, 6));
  EXPECT_THAT(kept(geometry(), "knorm", "0.5"), ElementsAre(0, 1, 2, 5));
  EXPECT_EQ(kept(geometry(), "chunkwise(score=key_norm,size=3)", "1").size(), 8u);
  EXPECT_EQ(kept(geometry(), "chunkwise(score=key_norm,size=3)", "1t").size(), 3u);  // never fewer than one a chunk
}

TEST(KeyRerotation, KeepsWhatItsScoreKeeps) {
  for (const char* amount : {"2t", "4t", "0.7"})
    EXPECT_EQ(kept(geometry(), "key_rerotation", amount), kept(geometry(), "keydiff", amount)) << amount;
}

TEST(Leverage, KeysThatTheOthersCannotRebuild) {
  EXPECT_THAT(columns(geometry(), "leverage(sketch=0)").s,
              Pointwise(FloatNear(1e-4f), {.0662f, .0964f, .0017f, .2765f, .2564f, .3244f, .2766f, .7002f}));
  EXPECT_THAT(kept(geometry(), "leverage", "3t"), ElementsAre(5, 6, 7));
}

// T8's keys and values with queries that are the keys.
SyntheticData keys_as_queries() {
  SyntheticData data = t8_geometry();
  for (auto& q : data.q) std::copy_n(data.k[0].data(), 16, q.data());
  return data;
}

TEST(NonCausal, AttentionFromBothSides) {
  SyntheticData data = keys_as_queries();
  const SyntheticSource source(data);
  EXPECT_THAT(columns(source, "noncausal_attention(chunk=4,vnorm=off,pool=1)").s,
              Pointwise(FloatNear(1e-4f), {.5706f, .5865f, 1.0327f, 1.8103f, .2762f, .7021f, .9835f, 2.0382f}));
  EXPECT_THAT(columns(source, "noncausal_attention(chunk=4)").s,
              Pointwise(FloatNear(1e-4f), {.2145f, .5588f, 1.7466f, 1.8272f, 1.8139f, .7710f, 2.0141f, 1.6831f}));
  EXPECT_THAT(kept(source, "noncausal(chunk=4)", "3t"), ElementsAre(3, 4, 6));
  // Of the first five tokens the last is alone in a chunk of four.
  for (const auto& [padding, want] : {std::pair("kvpress", 1.6979f), std::pair("mask", 1.75f)})
    EXPECT_NEAR(columns(source, std::string("noncausal_attention(chunk=4,vnorm=off,pool=1,padding=") + padding + ")",
                        sim::Granularity::kv_head, 5)
                    .s[4],
                want, 1e-4)
        << padding;
}

TEST(Compactor, BlendsOutliersAndLocalAttention) {
  // Inner scores −1.9086 −1.0109 1.0927 1.3389 1.1989 −.7109 of 1 … 6; the first and the last tie with the best, 4.
  const SyntheticSource source(keys_as_queries());
  const auto policy = [](const char* padding) {
    return std::string("compactor(lambda=0.5,first=1,last=1,chunk=4,padding=") + padding + ")";
  };
  EXPECT_THAT(kept(source, policy("kvpress"), "4t"), ElementsAre(0, 4, 5, 7));
  EXPECT_THAT(kept(source, policy("kvpress"), "5t"), ElementsAre(0, 3, 4, 5, 7));
  EXPECT_THAT(kept(source, policy("kvpress"), "6t"), ElementsAre(0, 3, 4, 5, 6, 7));
  EXPECT_THAT(kept(source, policy("kvpress"), "7t"), ElementsAre(0, 2, 3, 4, 5, 6, 7));
}

TEST(Cap, VolumeOfWeightedValues) {
  SyntheticData data = t8_geometry();
  for (auto& q : data.q)
    for (std::int64_t t = 0; t < 8; ++t) q(t, 0) = 1, q(t, 1) = 0;
  const SyntheticSource source(data);
  EXPECT_THAT(columns(source, "value_capacity(tau=1,sinks=0)").s,
              Pointwise(FloatNear(1e-4f), {.0017f, .0622f, .0968f, .6765f, .4296f, .0321f, .0242f, .3782f}));
  EXPECT_THAT(kept(source, "cap(tau=1,sinks=0)", "3t"), ElementsAre(3, 4, 7));
  EXPECT_THAT(kept(source, "cap(tau=1,sinks=1)", "1t"), ElementsAre(0));
}

TEST(Cur, ThePresetKeepsEnergy) {
  EXPECT_THAT(kept(geometry(), "cur(window=4,sinks=1)", "4t"), ElementsAre(0, 3, 4, 7));
}

TEST(CriticalAdaKv, HowManyAndWhich) {
  // Projected values 0.1 1 1 2 3 2. Beside the window of two: 2 a head, then 3.
  const char* policy = "critical_adakv(window=2,pool=1)";
  EXPECT_THAT(kept_of_all(two_heads(), policy, "4t"), ElementsAre(ElementsAre(3, 4, 6, 7), ElementsAre(1, 4, 6, 7)));
  EXPECT_THAT(kept_of_all(two_heads(), policy, "5t"),
              ElementsAre(ElementsAre(3, 4, 5, 6, 7), ElementsAre(1, 3, 4, 6, 7)));
}

TEST(ExpectedAdaKv, TheBestOfAllHeadsAboveAFloor) {
  const SyntheticSource source = random_source_of({.layers = 1, .tokens = 40});
  const sim::BoundCall call =
      sim::bind_call("score", parse_call("expected_attention(future=512,sinks=4,eps=0.01)"), "");
  std::vector<std::pair<float, std::pair<std::int64_t, std::int64_t>>> rest;  // score, head and position
  std::vector<Positions> want(2);
  sim::CacheState cache(source.card());
  source.feed(cache, 0, 40);
  for (std::int64_t group = 0; group < 2; ++group) {
    const sim::RunFacts facts{.card = &source.card()};
    const sim::Moment moment{.tokens = 40, .compress = true};
    sim::Memory memory;
    const sim::Params none;
    sim::Columns out;
    sim::ScoreContext{none, facts, moment, source, cache, 0, group, memory}.evaluate(call, out);
    std::vector<std::int64_t> order(40);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return out.s[static_cast<std::size_t>(a)] > out.s[static_cast<std::size_t>(b)];
    });
    for (std::size_t i = 0; i < 40; ++i)
      if (i < 2)  // floor(.2 · 10)
        want[static_cast<std::size_t>(group)].push_back(order[i]);
      else
        rest.push_back({out.s[static_cast<std::size_t>(order[i])], {group, order[i]}});
  }
  std::stable_sort(rest.begin(), rest.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (std::size_t i = 0; i < 16; ++i)
    want[static_cast<std::size_t>(rest[i].second.first)].push_back(rest[i].second.second);
  for (Positions& set : want) std::sort(set.begin(), set.end());
  EXPECT_EQ(kept_of_all(source, "expected_adakv", "10t"), want);
}

TEST(KeyRerotation, RotatedByTheGap) {
  // One frequency. Slots of 0, 3 and 7 lie at 5, 6 and 7, as a query at 8 sees 0, 1 and 2 from 3: rotated back by 5,
  // they are K_0, K_3 turned by −2 and K_7 turned by −5.
  SyntheticData data = t8_geometry();
  data.card.rope[0].inv_freq = {1.0f};
  const EngineRun run = run_engine("score=cur_energy(window=4,sinks=1) act=drop(positions=compact)",
                                   SyntheticSource(data), {.amount = sim::parse_amount("3t")});
  const sim::GroupSlots& slots = run.cache.group(0, 0);
  ASSERT_THAT(slots.position, ElementsAre(0, 3, 7));
  EXPECT_THAT(slots.rotary, ElementsAre(5, 6, 7));
  const float want[3][2] = {{1, 0}, {-.8323f, -1.8186f}, {-2.9847f, 4.0114f}};
  const float c = std::cos(5.0f), s = std::sin(5.0f);
  for (std::int64_t r = 0; r < 3; ++r) {
    EXPECT_NEAR(c * slots.keys()(r, 0) + s * slots.keys()(r, 1), want[r][0], 1e-4) << r;
    EXPECT_NEAR(c * slots.keys()(r, 1) - s * slots.keys()(r, 0), want[r][1], 1e-4) << r;
  }
}

TEST(Finch, ByChunks) {
  EXPECT_THAT(kept(attention(), "score=question_attention(window=2) select=by_slice(size=4)", "0.5"),
              ElementsAre(1, 3, 6, 7));
}

TEST(Decoding, CountsNotRatios) {
  // As a ratio in binary64 a target of 1 of 3 is missed; as a count every target is met, at every firing.
  for (std::int64_t tokens = 2; tokens < 24; ++tokens) {
    const SyntheticSource source = random_source_of({.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = tokens});
    for (std::int64_t target = 1; target < tokens; target += 3)
      EXPECT_EQ(kept(source, "score=key_norm schedule=every(n=5)", std::to_string(target) + "t").size(),
                static_cast<std::size_t>(target));
  }
  const auto removed = sim::base_amount({sim::Amount::Kind::removed, 0.9}, 1000, geometry().card(), 1);
  EXPECT_EQ(removed.tokens, 99);
  EXPECT_EQ(sim::base_amount({sim::Amount::Kind::removed, 0.2}, 2560, geometry().card(), 1).tokens, 2048);
}

}  // namespace
}  // namespace kvgrind::tests
