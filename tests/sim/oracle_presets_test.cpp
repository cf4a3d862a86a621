// Worked examples on the presets' own lines, where another test asks their primitives alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(Presets, ScissorhandsOfTheFirstHead) {
  for (const char* policy : {"scissorhands(history=4,share=0,recent=2)",
                             "scissorhands(history=4,share=0,recent=2,sink=0,like=cold-compress)"})
    EXPECT_THAT(kept(one_head(), policy, "4t"), ElementsAre(0, 3, 6, 7)) << policy;
}

TEST(Presets, FastGenChoosesByHead) {
  // Frequency by exposure: token 3 before token 1 in the first head. Special and frequent recover .6 and .65.
  const std::string rest = "frequent=0.125,local=0.25,globals=1,rows=0.5)";
  EXPECT_THAT(kept_of_all(two_heads(), "fastgen(recovery=0.5," + rest, "1"),
              ElementsAre(ElementsAre(0, 3), ElementsAre(0, 1)));
  for (const auto& set : kept_of_all(two_heads(), "fastgen(recovery=0.9," + rest, "1")) EXPECT_EQ(set.size(), 8u);
}

TEST(Presets, PyramidKvAsPublished) {
  const SyntheticSource source =
      random_source_of({.layers = 4, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 512, .rotary_dim = 0});
  const auto sizes = [&](const char* policy, const char* amount) {
    std::vector<std::size_t> out;
    for (const auto& set : kept_of_all(source, policy, amount)) out.push_back(set.size());
    return out;
  };
  EXPECT_THAT(sizes("pyramidkv(window=8,like=official)", "64t"), ElementsAre(118, 82, 46, 10));
  EXPECT_THAT(sizes("pyramidkv(like=kvpress)", "0.5"), ElementsAre(448, 320, 192, 64));
  EXPECT_THAT(sizes("pyramidkv(like=kvpress)", "0.25"), testing::Each(128));
}

TEST(Presets, AdaKvHeadsCompete) {
  EXPECT_THAT(kept_of_all(two_heads(), "adakv(window=2,pool=1)", "4t"),
              ElementsAre(ElementsAre(0, 3, 6, 7), ElementsAre(0, 1, 6, 7)));
  // .45 .45 .25 .2, then the first of the .075: token 4 of the first head. 5 tokens a head, one of them its own.
  EXPECT_THAT(kept_of_all(two_heads(), "adakv(window=2,pool=1)", "5t"),
              ElementsAre(ElementsAre(0, 3, 4, 6, 7), ElementsAre(0, 1, 2, 6, 7)));
}

TEST(Presets, ExpectedAttentionKeepsTheLikelierKey) {
  SyntheticData data = keys_of({{0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {0, 1}, {1, 0}, {0, 1}});
  data.card.scale = 1 / std::sqrt(2.0f);
  data.card.rope = {RopeSet{.inv_freq = {1.0f}}};
  for (std::int64_t t = 0; t < 8; ++t) {  // pre-RoPE all queries are (1, 0)
    data.q[0](t, 0) = std::cos(static_cast<float>(t));
    data.q[0](t, 1) = std::sin(static_cast<float>(t));
    data.v[0](t, 0) = 1;
    data.v[0](t, 1) = 0;
  }
  EXPECT_THAT(kept(SyntheticSource(data), "expected_attention(future=2,sinks=6)", "7t"),
              ElementsAre(0, 1, 2, 3, 4, 5, 7));
}

TEST(Presets, RkvSparesTheNewestOfEqualKeys) {
  const SyntheticSource source(keys_of({{1, 0}, {1, 0}, {1, 0}, {0, 1}}));
  EXPECT_THAT(kept(source, "rkv(window=1,pool=1,lambda=0)", "3t"), ElementsAre(1, 2, 3));
  EXPECT_THAT(kept(source, "rkv(window=1,pool=1,lambda=0)", "2t"), ElementsAre(2, 3));
}

TEST(Presets, ChunkKvAndCriticalKv) {
  EXPECT_THAT(kept(attention(), "chunkkv(window=2,pool=1,chunk=2)", "4t"), ElementsAre(0, 1, 6, 7));
  // Without the norm of the value 0 would stand before 4.
  EXPECT_THAT(kept(attention(), "criticalkv(window=2,pool=1)", "5t"), ElementsAre(1, 3, 4, 6, 7));
  EXPECT_THAT(kept(attention(), "snapkv(window=2,pool=1)", "5t"), ElementsAre(0, 1, 3, 6, 7));
}

TEST(Presets, LagKv) {
  const SyntheticSource source(keys_of({{1, 1}, {3, 0}, {0, 0}, {2, 4}}));
  EXPECT_THAT(kept(source, "lagkv(sinks=0,lag=2)", "3t"), ElementsAre(1, 2, 3));
}

TEST(Presets, KeyformerShares) {
  // 60 % of 100 tokens, 30 % of them recent.
  const SyntheticSource source = random_source_of({.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = 100});
  const Positions set = kept(source, "keyformer", "0.6");
  EXPECT_EQ(set.size(), 60u);
  EXPECT_EQ(std::count_if(set.begin(), set.end(), [](std::int64_t t) { return t >= 82; }), 18);
  for (int seed = 0; seed < 20; ++seed)  // the recents do not depend on the noise, what lies before them does
    EXPECT_EQ(kept(source, "keyformer", "0.6", {.seed = static_cast<std::uint64_t>(seed)})[42], 82);
  EXPECT_NE(kept(source, "keyformer", "0.6", {.seed = 1}), set);
}

TEST(Presets, TreeKvThePairAtTheCursor) {
  // Means .5313 .1964 .125 .175 .1 .0667 .05 .05, four slots, the cursor over the first three: of (0, 1) 1 leaves, of
  // (2, 3) 2, of (4, 5) 5, of (0, 3) 3.
  EXPECT_THAT(kept(attention(), "treekv-m", "4t"), ElementsAre(0, 4, 6, 7));
}

TEST(Presets, LaCacheLadders) {
  const SyntheticShape shape{.layers = 4, .query_heads = 1, .kv_heads = 1, .tokens = 18};
  const auto sets = kept_of_all(random_source_of(shape), "lacache(start=4,span=2,overlap=0)", "16t");
  const Positions even{0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
  const Positions odd{0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
  EXPECT_THAT(sets, ElementsAre(even, odd, even, odd));
}

TEST(Presets, CakeOnOneLayer) {
  EXPECT_THAT(kept(attention(), "cake(window=2,pool=1)", "4t"), ElementsAre(1, 3, 6, 7));
  EXPECT_THAT(kept(attention(), "cake(window=2,pool=1)", "3t"), ElementsAre(3, 6, 7));
}

TEST(Presets, KvCrushBlocks) {
  // Bits 01 01 00 11, the last block best; of the others the one nearest to the anchor, or every second of all.
  EXPECT_THAT(kept(attention(), "kvcrush(window=2,pool=1,block=2,share=0.5,anchor=ones)", "4t"),
              ElementsAre(0, 1, 6, 7));
  EXPECT_THAT(kept(attention(), "kvcrush(window=2,pool=1,block=2,share=1,anchor=ones)", "4t"), ElementsAre(2, 3, 6, 7));
}

TEST(Presets, WindowKvBudgetsOfLayerGroups) {
  const SyntheticSource source =
      random_source_of({.layers = 32, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 3000, .rotary_dim = 0});
  const auto sets = kept_of_all(source, "windowkv(size=1,like=official)", "2048t");
  for (std::size_t l = 0; l < 32; ++l) {
    const std::size_t want[] = {2926, 2341, 1756, 1170};
    EXPECT_EQ(sets[l].size(), want[l / 8]) << l;
    EXPECT_EQ(sets[l], sets[l / 8 * 8]) << "a group shares its choice";
  }
}

TEST(Presets, LayersOfLongGenAndRecursions) {
  const SyntheticSource source = random_source_of({.layers = 3, .query_heads = 1, .kv_heads = 1, .tokens = 10});
  EXPECT_THAT(kept_of_all(source, "longgen-m(sinks=2)", "4t"),
              ElementsAre(ElementsAre(0, 1, 8, 9), testing::SizeIs(10), ElementsAre(0, 1, 8, 9)));
  const auto sets = kept_of_all(source, "mor-m", "1");
  EXPECT_THAT(sets, ElementsAre(testing::SizeIs(10), testing::SizeIs(6), testing::SizeIs(3)));
}

TEST(Presets, S2AttentionCoversTheContext) {
  const SyntheticSource source =
      random_source_of({.layers = 1, .query_heads = 4, .kv_heads = 4, .head_dim = 2, .tokens = 8, .rotary_dim = 0});
  EXPECT_THAT(kept_of_all(source, "s2attention(block=1,local=1,stride=4)", "1"),
              ElementsAre(ElementsAre(0, 4, 7), ElementsAre(3, 7), ElementsAre(2, 6, 7), ElementsAre(1, 5, 7)));
}

TEST(Presets, HeadKvByTheWeightsOfHeads) {
  const SyntheticSource source =
      random_source_of({.layers = 1, .query_heads = 3, .kv_heads = 3, .head_dim = 2, .tokens = 600, .rotary_dim = 0});
  EXPECT_THAT(kept_of_all(source, "headkv(weights=[0.5,0.3,0.2],floor=0)", "100t"),
              ElementsAre(testing::SizeIs(150), testing::SizeIs(90), testing::SizeIs(60)));
}

TEST(Presets, DapQOnKeysOfOneContent) {
  // Content (1, 0) at positions 0 … 3: logits cos(i − p). A query at 4 sees .1592 .1137 .2018 .5253; with one at 5 the
  // means are .3102 .1472 .1654 .3772.
  SyntheticData data = keys_of({{1, 0}, {1, 0}, {1, 0}, {1, 0}});
  data.card.scale = 1;
  data.card.rope = {RopeSet{.inv_freq = {1.0f}}};
  for (auto* list : {&data.q, &data.k})
    for (std::int64_t t = 0; t < 4; ++t) {
      (*list)[0](t, 0) = std::cos(static_cast<float>(t));
      (*list)[0](t, 1) = std::sin(static_cast<float>(t));
    }
  const SyntheticSource source(data);
  EXPECT_THAT(columns(source, "repositioned_queries(n=1,offset=0,pool=1)").s,
              Pointwise(FloatNear(1e-4f), {.1592f, .1137f, .2018f, .5253f}));
  EXPECT_THAT(columns(source, "repositioned_queries(n=2,offset=0,pool=1)").s,
              Pointwise(FloatNear(1e-4f), {.3102f, .1472f, .1654f, .3772f}));
  EXPECT_THAT(kept(source, "dapq-m(n=1,pool=1,recent=0)", "2t"), ElementsAre(2, 3));
  EXPECT_THAT(kept(source, "dapq-m(n=2,pool=1,recent=0)", "2t"), ElementsAre(0, 3));
}

// A calibration of one layer over features (two query heads, key, value) of T8 that reads the key's first number.
std::shared_ptr<const Calibration> reads_the_key(const SyntheticSource& source, const char* method, float weight,
                                                 float constant) {
  auto out = std::make_shared<Calibration>();
  out->method = method;
  out->model = calibration_model(source.card());
  out->tensors["w 0"] = {{8, 1}, {0, 0, 0, 0, weight, 0, 0, 0}};
  out->tensors["b 0"] = {{1}, {constant}};
  out->numbers["logistic"] = std::string_view(method) == "attention_gate";
  return out;
}

TEST(Presets, LocretStabilizersHoldTheNewest) {
  // Scores constant: after eight tokens the last two of five are kept for sure, without stabilizers not.
  EngineSetup setup;
  setup.calibration = reads_the_key(geometry(), "locret", 0, 1);
  EXPECT_THAT(kept(geometry(), "locret(stabilizers=2)", "5t", setup), ElementsAre(0, 1, 2, 6, 7));
  EXPECT_THAT(kept(geometry(), "locret", "5t", setup), ElementsAre(0, 1, 2, 3, 4));
}

TEST(Presets, AttentionGateKeepsOpenGates) {
  // Gates .9 .4 .6 .2 of the first four tokens, whose logits stand in the key; closed ones behind them.
  SyntheticData data = t8_geometry();
  const float gate[] = {.9f, .4f, .6f, .2f, .1f, .1f, .1f, .1f};
  for (std::int64_t t = 0; t < 8; ++t) data.k[0](t, 0) = std::log(gate[t] / (1 - gate[t]));
  const SyntheticSource source(std::move(data));
  EngineSetup setup;
  setup.calibration = reads_the_key(source, "attention_gate", 1, 0);
  EXPECT_THAT(kept(source, "attention_gate-m", "2t", setup), ElementsAre(0, 2));
}

TEST(Presets, ExpectedAttentionByOtherTexts) {
  // Queries = K/4 with the first left out, no rotation: of the others .0636 .0786 .1550 .2581 .0639 .0259 1.3354.
  SyntheticData data = t8_geometry();
  data.card.scale = 1 / std::sqrt(2.0f);
  const SyntheticSource source(std::move(data));
  auto fitted = std::make_shared<Calibration>();
  fitted->method = "expected";
  fitted->model = calibration_model(source.card());
  fitted->tensors["mean"] = {{1, 2, 2}, {.214286f, .25f, .214286f, .25f}};
  fitted->tensors["covariance"] = {{1, 2, 2, 2},
                                   {.113095f, .0625f, .0625f, .166667f, .113095f, .0625f, .0625f, .166667f}};
  EngineSetup setup;
  setup.calibration = fitted;
  EXPECT_THAT(kept(source, "expected_stats(sinks=1)", "4t", setup), ElementsAre(0, 3, 4, 7));
}

TEST(Presets, DuoOfLongTexts) {
  // Of 1000 tokens a streaming head keeps 128 sinks and 256 recents.
  const SyntheticSource source =
      random_source_of({.layers = 1, .query_heads = 4, .kv_heads = 4, .head_dim = 2, .tokens = 1000, .rotary_dim = 0});
  auto fitted = std::make_shared<Calibration>();
  fitted->method = "duo";
  fitted->model = calibration_model(source.card());
  fitted->tensors["head"] = {{1, 4}, {.1f, .9f, .4f, .8f}};
  EngineSetup setup;
  setup.calibration = fitted;
  EXPECT_THAT(kept_of_all(source, "duo", "0.5", setup),
              ElementsAre(testing::SizeIs(384), testing::SizeIs(1000), testing::SizeIs(384), testing::SizeIs(1000)));
}

}  // namespace
}  // namespace kvgrind::tests
