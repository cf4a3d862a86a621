// Worked examples of published methods, scores and selectors: computed by hand from the formulas, on the fixture T8 and
// beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(Scissorhands, BothForms) {
  const auto head0 = [&](const char* form) {
    return columns(attention(), std::string("persistence(history=4,reduce=none,form=") + form + ")",
                   sim::Granularity::query_head)
        .s;
  };
  EXPECT_THAT(head0("rate"), Pointwise(FloatNear(1e-6f), {1.f, 0.f, .25f, .75f, .25f, 0.f, 0.f, 0.f}));
  EXPECT_THAT(head0("count"), Pointwise(FloatNear(1e-6f), {0.f, -4.f, -3.f, -1.f, -3.f, -3.f, -2.f, -1.f}));
  for (const char* form : {"rate", "count"})
    EXPECT_THAT(
        kept(attention(),
             std::string("score=persistence(history=4,reduce=none,form=") + form + ") select=batch(share=0,recent=2)",
             "4t"),
        ElementsAre(0, 3, 6, 7));
}

TEST(FastGen, RecoveriesAndChoice) {
  const auto profile = [&](double recovery) {
    return columns(attention(), "head_profile(recovery=" + std::to_string(recovery) +
                                    ",frequent=0.125,local=0.25,globals=1,frequency=sum,rows=0.5)");
  };
  // Group means of heads 0 (.300 .375 .550) and 1 (.375 .650 .800).
  const sim::Columns half = profile(.5);
  EXPECT_NEAR(half.figures.at("recovery 0"), .3375, 1e-5);
  EXPECT_NEAR(half.figures.at("recovery 2"), .5125, 1e-5);
  EXPECT_NEAR(half.figures.at("recovery 3"), .675, 1e-5);
  EXPECT_EQ(half.figures.at("set"), 2);
  EXPECT_EQ(profile(.6).figures.at("set"), 3);
  EXPECT_EQ(profile(.9).figures.at("set"), 4);
  EXPECT_EQ(profile(1).figures.at("set"), 4);
}

TEST(RKv, RedundancySparesTheNewest) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 4, .rotary_dim = 0};
  std::mt19937_64 rng(1);
  SyntheticData data = random_data(rng, shape);
  for (std::int64_t t = 0; t < 4; ++t) {
    data.k[0](t, 0) = t < 3 ? 1.0f : 0.0f;
    data.k[0](t, 1) = t < 3 ? 0.0f : 1.0f;
  }
  const auto s = columns(SyntheticSource(data), "attention_redundancy(window=1,pool=1,lambda=0)").s;
  EXPECT_THAT(front(s, 3), Pointwise(FloatNear(1e-4f), {-.3342f, -.2603f, -.2027f}));
}

TEST(Finch, ExposureWeighsTheRows) {
  EXPECT_THAT(front(columns(attention(), "question_attention(window=2)").s, 6),
              Pointwise(FloatNear(1e-4f), {1.45f, 1.6375f, .4f, 1.7125f, .475f, .325f}));
  EXPECT_THAT(front(columns(attention(), "question_attention(window=2,exposure=visible)").s, 6),
              Pointwise(FloatNear(1e-4f), {1.675f, 1.8875f, .4625f, 1.975f, .55f, .375f}));
  EXPECT_THAT(kept(attention(), "finch(window=2,positions=keep)", "4t"), ElementsAre(1, 3, 6, 7));
}

TEST(Keyformer, TemperatureWithoutNoise) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 3, .rotary_dim = 0};
  std::mt19937_64 rng(2);
  SyntheticData data = random_data(rng, shape);
  data.card.scale = 1;
  for (std::int64_t t = 0; t < 3; ++t) {
    data.k[0](t, 0) = static_cast<float>(2 - t);
    data.k[0](t, 1) = 0;
    data.q[0](t, 0) = data.q[0](t, 1) = t == 2 ? 1.0f : 0.0f;
  }
  const SyntheticSource source(data);
  for (const double tau : {1.0, 2.0}) {
    const auto s = columns(source, "noised_attention(noise=off,tau=" + std::to_string(tau) + ")").s;
    const double earlier[3] = {1.5, .5, 0};  // rows 0 and 1 are uniform
    const double last[2][3] = {{.6652, .2447, .09}, {.5065, .3072, .1863}};
    for (std::size_t j = 0; j < 3; ++j)
      EXPECT_NEAR(static_cast<double>(s[j]) - earlier[j], last[tau == 2.0][j], 1e-4) << tau;
  }
}

TEST(TreeKv, TheCursorThinsOldStretches) {
  EXPECT_THAT(selected("pairs(recent=0)", std::vector<float>(12), 4).kept, ElementsAre(3, 7, 9, 11));
  EXPECT_THAT(selected("pairs(recent=0)", std::vector<float>(32), 8).kept, ElementsAre(7, 15, 19, 23, 25, 27, 29, 31));
}

TEST(LaCache, Ladders) {
  const auto at = [](std::int64_t n, std::int64_t layer) {
    return selected("ladder(start=4,span=2)", std::vector<float>(static_cast<std::size_t>(n)), 16, 4, layer).kept;
  };
  EXPECT_THAT(at(18, 0), ElementsAre(0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17));
  EXPECT_THAT(at(18, 1), ElementsAre(0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17));
  EXPECT_THAT(at(30, 0), ElementsAre(0, 1, 2, 3, 4, 8, 12, 16, 20, 22, 24, 25, 26, 27, 28, 29));
  EXPECT_THAT(at(30, 1), ElementsAre(0, 1, 2, 3, 7, 11, 15, 19, 21, 23, 24, 25, 26, 27, 28, 29));
  for (std::int64_t n = 17; n < 400; n += 23) EXPECT_LE(at(n, 2).size(), 16u) << n;
}

TEST(LaCache, OtherSpansAndOverlaps) {
  // Of 32 layers. A span of 16: 2 slots before a ladder, 1 after. A span of 8 that overlaps by 4: 7 and 2, and the
  // 5 that go at once give the budget 2 more.
  struct Shape {
    const char* line;
    std::int32_t before, after, more;
  };
  for (const Shape& shape :
       {Shape{"ladder(start=4,span=16)", 2, 1, 0}, Shape{"ladder(start=4,span=8,overlap=4)", 7, 2, 2}})
    for (const std::int32_t layer : {0, 1, 5, 6, 31}) {
      const std::int32_t n = 100, budget = 88, red = shape.before - shape.after;
      const std::int32_t ladders = (n - budget - shape.more + red - 1) / red, first = 4 + layer % (red + 1);
      std::vector<std::int32_t> expected = {0, 1, 2, 3};
      for (std::int32_t r = 0; r < ladders; ++r)
        for (std::int32_t k = 0; k < shape.after; ++k) expected.push_back(first + shape.before * r + k);
      for (std::int32_t at = 4 + shape.before * ladders; at < n; ++at) expected.push_back(at);
      const auto kept = selected(shape.line, std::vector<float>(static_cast<std::size_t>(n)), budget, 32, layer).kept;
      EXPECT_EQ(kept, expected) << shape.line << " layer " << layer;
      EXPECT_EQ(static_cast<std::int32_t>(kept.size()), budget + shape.more);
    }
}

TEST(KvCrush, BlocksByHammingDistance) {
  const std::vector<float> s{.1f, .2f, .3f, .8f, .9f, .7f};
  EXPECT_THAT(selected("crush_blocks(block=2,share=1,anchor=ones)", s, 2).kept, ElementsAre(4, 5));
  EXPECT_THAT(selected("crush_blocks(block=2,share=1,anchor=ones)", s, 4).kept, ElementsAre(2, 3, 4, 5));
}

TEST(ElasticCache, ScoresAndTheirPublishedComparison) {
  // Candidates between no sinks and the newest.
  const std::vector<float> s{.5f, .1f, .4f, .2f, .3f, 0.f};
  EXPECT_THAT(selected("fixed_slot(sink=0)", s, 4).kept, ElementsAre(0, 2, 4, 5));
  EXPECT_THAT(selected("fixed_slot(sink=0,rank=upstream)", s, 4).kept, ElementsAre(1, 2, 5));
}

TEST(S2Attention, HeadsCoverTheContext) {
  const std::vector<std::vector<std::int32_t>> want{{0, 4, 7}, {3, 7}, {2, 6, 7}, {1, 5, 7}};
  for (std::int64_t head = 0; head < 4; ++head)
    EXPECT_EQ(selected("strided(block=1,local=1,stride=4)", std::vector<float>(8), 0, 1, 0, 4, head).kept,
              want[static_cast<std::size_t>(head)]);
}

TEST(WindowKv, WholeWindowsLeave) {
  EXPECT_THAT(selected("windows(size=2)", {1, 1, 3, 3, 2, 2, 0}, 4).kept, ElementsAre(2, 3, 4, 5));
}

TEST(MpCache, AnyLateQuery) {
  EXPECT_THAT(front(columns(attention(), "any_attention(share=0.25)").s, 6),
              Pointwise(FloatNear(1e-5f), {.25f, .275f, .075f, .275f, .1f, .05f}));
  EXPECT_THAT(selected("threshold(at=0.1)", {.05f, .1f, .2f}, 1).kept, ElementsAre(1, 2));
}

TEST(PyramidInfer, WhatLayersPassOn) {
  SyntheticShape shape{.layers = 32, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 1000, .rotary_dim = 0};
  std::mt19937_64 rng(10);
  const SyntheticSource source(random_data(rng, shape));
  const EngineRun run = run_engine("pyramidinfer", source, {.amount = sim::parse_amount("1")});
  // Of the context, 799 tokens, after layers 0, 8 and 16; with 200 recents and the newest.
  EXPECT_EQ(run.kept(1, 0).size(), 799u + 201);
  EXPECT_EQ(run.kept(9, 0).size(), 758u + 201);
  EXPECT_EQ(run.kept(17, 0).size(), 573u + 201);
  const Positions upper = run.kept(20, 0), lower = run.kept(19, 0);
  EXPECT_TRUE(std::includes(lower.begin(), lower.end(), upper.begin(), upper.end()));
}

TEST(LagKv, SpreadAgainstTheNextPartition) {
  const SyntheticSource source(keys_of({{1, 1}, {3, 0}, {0, 0}, {2, 4}}));
  const auto s = columns(source, "lag_spread(sinks=0,lag=2)").s;
  EXPECT_LT(s[0], s[1]);  // .2924 and .7076 by keys alone
  EXPECT_EQ(s[2], 1.0f);
  EXPECT_EQ(s[3], 1.0f);
}

TEST(ChunkKv, TheBestChunkStays) {
  EXPECT_THAT(front(columns(attention(), "chunk_mean(of=window_attention(window=2,pool=1),size=2)").s, 6),
              Pointwise(FloatNear(1e-4f), {.2375f, .2375f, .1625f, .1625f, .0625f, .0625f}));
}

TEST(CriticalKv, SecondStage) {
  const auto all = columns(attention(), "projected_value(of=window_attention(window=2,pool=1))");
  EXPECT_THAT(front(all.extra.at("second"), 6),
              Pointwise(FloatNear(1e-4f), {.0225f, .2501f, .0626f, .5252f, .2253f, .1002f}));
}

TEST(Cur, WindowNormalisedEnergy) {
  EXPECT_THAT(kept(geometry(), "score=cur_energy(sinks=1,window=4)", "4t"), ElementsAre(0, 3, 4, 7));
}

TEST(Cards, ClosedLoopMethodsSayWhatTheOpenLoopLeavesOut) {
  for (const sim::MethodCard& card : sim::method_cards()) {
    if (card.data.at("fidelity").as_string() != "CL") continue;
    EXPECT_FALSE(sim::read_method(card).open_loop.empty()) << card.name;
    EXPECT_FALSE(sim::approximated(*sim::bind_policy(card.name)).empty()) << card.name;
  }
}

// T8 with token 0's key halfway towards token 4's direction, images over 0 … 3 and 4 … 5, hidden norms 3 and 4 there.
SyntheticData screens() {
  SyntheticData data = t8_attention();
  for (std::int64_t d = 0; d < 8; ++d) data.k[0](0, d) = d == 4 ? .5f : 0.0f;
  data.spans = {{"image", 0, 4, ""}, {"image", 4, 6, ""}};
  data.hidden_norm = {{1, 1, 1, 1, 3, 4, 1, 1}};
  return data;
}

TEST(GuiKv, NormsRaiseTheNewestImage) {
  SyntheticData data = t8_attention();
  data.spans = {{"image", 2, 5, ""}};
  data.hidden_norm = {{1, 1, 3, 4, 5, 1, 1, 1}};
  const auto s = columns(SyntheticSource(data), "image_salience(window=2,pool=1,reduce=mean)").s;
  // Attention summed over the window: .45 .5 .125 .525 .15 .1; additions .4876 .6489 .8635.
  EXPECT_THAT(front(s, 6), Pointwise(FloatNear(1e-4f), {.45f, .5f, .6126f, 1.1739f, 1.0135f, .1f}));
  EXPECT_THAT(kept(SyntheticSource(data), "guikv(window=2,pool=1)", "5t"), ElementsAre(2, 3, 4, 6, 7));
}

TEST(GuiKv, ResidualBesideTheNewestImage) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 3, .tokens = 6, .rotary_dim = 0};
  std::mt19937_64 rng(12);
  SyntheticData data = random_data(rng, shape);
  const float key[6][3] = {{1, 2, 3}, {4, 5, 0}, {2, 0, 0}, {1, 3, 0}, {0, 0, 1}, {0, 0, 1}};
  for (std::int64_t t = 0; t < 6; ++t)
    for (std::int64_t d = 0; d < 3; ++d) data.k[0](t, d) = key[t][d];
  data.spans = {{"image", 0, 2, ""}, {"image", 2, 4, ""}};
  data.hidden_norm = {{1, 1, 1, 1, 1, 1}};
  const auto residual =
      columns(SyntheticSource(data), "image_salience(window=1,pool=1,reduce=mean)").extra.at("residual");
  EXPECT_NEAR(residual[0], 3, 1e-5);  // the newest image spans the first two axes
  EXPECT_NEAR(residual[1], 0, 1e-5);
  for (std::size_t j = 2; j < 6; ++j) EXPECT_TRUE(std::isnan(residual[j]));
}

TEST(GuiKv, WhatAnOlderImageRepeatsCountsNothing) {
  // Means over both heads .516 .473 .118 .510 before the newest image; 0 lies in its subspace, so that of 5 slots
  // (β = 5/8, floor(3/8 · 4) = 1) it loses its place to 3.
  const SyntheticSource source(screens());
  EXPECT_THAT(kept(source, "guikv(window=2,pool=1)", "5t"), ElementsAre(3, 4, 5, 6, 7));
  EXPECT_THAT(kept(source, "score=image_salience(window=2,pool=1,reduce=mean) select=topk", "5t"),
              ElementsAre(0, 4, 5, 6, 7));
  EXPECT_EQ(kept_of_all(source, "guikv(window=2,pool=1,like=official)", "5t").size(), 2u);
}

TEST(LookaheadQCache, TheNextQueriesDecide) {
  // Rows 6 and 7 over the six slots there: the first alone prefers 0, both together 1 (group means, renormalised).
  const EngineSetup setup{.compress_at = 6};
  EXPECT_THAT(columns(attention(), "lookahead_attention(n=1,pool=1)", sim::Granularity::kv_head, 6).s,
              Pointwise(FloatNear(1e-4f), {.2632f, .2368f, .0789f, .2632f, .1053f, .0526f}));
  EXPECT_THAT(kept(attention(), "lookahead_qcache-m(n=1,pool=1)", "2t", setup), ElementsAre(0, 3));
  EXPECT_THAT(kept(attention(), "lookahead_qcache-m(n=2,pool=1)", "2t", setup), ElementsAre(1, 3));
}

}  // namespace
}  // namespace kvgrind::tests
