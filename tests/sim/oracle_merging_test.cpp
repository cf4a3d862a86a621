// Worked examples of published methods, merging: computed by hand from the formulas, on the fixture T8 and beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(Merging, ByCosineShrinks) {
  // u = .5 between (1, √3) and (2, 0): K = ((2, 0) + .5 (1, √3))/2.
  const SyntheticSource source(keys_of({{1, std::sqrt(3.0f)}, {2, 0}}));
  const EngineRun run =
      run_engine("score=position act=merge(weight=cosine)", source, {.amount = sim::parse_amount("1t")});
  EXPECT_THAT(run.cache.group(0, 0).k, Pointwise(FloatNear(1e-5f), {1.25f, std::sqrt(3.0f) / 4}));
  EXPECT_EQ(run.cache.group(0, 0).count[0], 2.0f);
  EXPECT_EQ(run.cache.token_states(0, 0, sim::Part::key)[1], 2);
}

TEST(Merging, NearestByPositionIsTheMean) {
  const SyntheticSource source(keys_of({{0, 1}, {2, 1}, {9, 1}, {9, 2}, {4, 1}}));
  const EngineRun run = run_engine("score=none select=sinks_recent(sinks=1) act=merge(to=nearest,weight=mean)", source,
                                   {.amount = sim::parse_amount("2t")});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 4));
  EXPECT_NEAR(run.cache.group(0, 0).k[0], (0 + 2 + 9) / 3.0f, 1e-5);
  EXPECT_NEAR(run.cache.group(0, 0).k[2], (4 + 9) / 2.0f, 1e-5);
}

TEST(Merging, GaussianAroundThePivot) {
  // Weights .8259, .0870, .0870 around the pivot (0, 0), moved to (1, 1) so that cosines exist.
  const SyntheticSource source(keys_of({{2, 1}, {1, 2}, {1, 1}}));
  const EngineRun run =
      run_engine("score=position act=merge(weight=gaussian)", source, {.amount = sim::parse_amount("1t")});
  EXPECT_THAT(run.cache.group(0, 0).k, Pointwise(FloatNear(1e-4f), {1.0870f, 1.0870f}));
}

TEST(Chelsea, ClustersOfAlternateTokens) {
  const SyntheticData data = keys_of({{1, 0}, {1, .1f}, {0, 1}, {0, 1}});
  const SyntheticSource source(data);
  const EngineRun run = run_engine("chelsea-m(size=4,sink=0,recent=0)", source, {.amount = sim::parse_amount("3t")});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 1, 3));
  EXPECT_THAT(run.cache.group(0, 0).count, ElementsAre(1, 1, 2));
  EXPECT_THAT(run.cache.group(0, 0).k, Pointwise(FloatNear(1e-6f), {1.f, 0.f, 1.f, .1f, 0.f, 1.f}));
}

TEST(Merging, CaMSpreadsTheExpectedValue) {
  SyntheticData data = t8_attention();
  const SyntheticSource source(data);
  // Token 3 leaves when 5 are kept at sinks 0 … 2? Kept {0, 6, 7}: the dropped with more attention than their recents.
  const EngineRun run = run_engine("cam(sinks=1,m=2,stochastic=off)", source, {.amount = sim::parse_amount("3t")});
  const sim::GroupSlots& slots = run.cache.group(0, 0);
  EXPECT_THAT(slots.position, ElementsAre(0, 6, 7));
  // Newest row, group mean: .2 .275 .05 .275 .05 .05 .05 .05; p of tokens 1 … 5 over the mean .05 of {6, 7} is 1.
  double sum = 0;
  for (const std::int64_t t : {1, 2, 3, 4, 5}) sum += static_cast<double>(data.v[0](t, 0)) / 2;
  EXPECT_NEAR(slots.v[8], static_cast<double>(data.v[0](6, 0)) + sum, 1e-4);
  EXPECT_NEAR(slots.v[16], static_cast<double>(data.v[0](7, 0)) + sum, 1e-4);
  EXPECT_EQ(slots.k[8 + 6], 1.0f);  // keys stay
}

// Two tokens with the same key and value: merged with the count on their logit, no output changes.
TEST(Merging, IdenticalTokensWithCountBiasChangeNothing) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = 20};
  for (const char* weight : {"mean", "count", "gaussian", "score", "affine", "half"}) {
    std::mt19937_64 rng(7);
    SyntheticData data = random_data(rng, shape);
    for (std::int64_t t = 0; t < 20; t += 2)
      for (std::int64_t d = 0; d < 8; ++d) {
        data.k[0](t, d) = data.k[0](t + 1, d);
        data.v[0](t, d) = data.v[0](t + 1, d);
      }
    const SyntheticSource source(data);
    const EngineRun run = run_engine(std::string("score=none select=matching(size=2,sink=0,recent=0) "
                                                 "act=merge(to=assigned,count_bias=on,weight=") +
                                         weight + ")",
                                     source, {.amount = sim::parse_amount("10t")});
    const sim::GroupSlots& slots = run.cache.group(0, 0);
    ASSERT_EQ(slots.size(), 10) << weight;
    EXPECT_EQ(std::accumulate(slots.count.begin(), slots.count.end(), 0.0f), 20.0f);
    const auto output = [&](const std::vector<float>& k, const std::vector<float>& v, const std::vector<float>& count) {
      std::vector<double> out(9, 0.0);
      for (std::size_t j = 0; j < count.size(); ++j) {
        double dot = 0;
        for (std::size_t d = 0; d < 8; ++d)
          dot += static_cast<double>(k[8 * j + d]) * data.q[0](19, static_cast<std::int64_t>(d));
        const double mass = std::exp(dot * source.card().scale) * count[j];
        out[8] += mass;
        for (std::size_t d = 0; d < 8; ++d) out[d] += mass * v[8 * j + d];
      }
      for (std::size_t d = 0; d < 8; ++d) out[d] /= out[8];
      return out;
    };
    sim::CacheState full(source.card());
    source.feed(full, 0, 20);
    const auto a = output(slots.k, slots.v, slots.count);
    const auto b = output(full.group(0, 0).k, full.group(0, 0).v, std::vector<float>(20, 1.0f));
    for (std::size_t d = 0; d < 8; ++d) EXPECT_NEAR(a[d], b[d], 1e-5) << weight;
    const sim::GroupView view = run.cache.read(0, 0);
    ASSERT_NE(view.log_count, nullptr);
    EXPECT_NEAR(view.log_count[0], std::log(2.0f), 1e-6);
  }
}

TEST(Merging, CountsAreConserved) {
  SyntheticShape shape{.tokens = 60};
  std::mt19937_64 rng(8);
  const SyntheticSource source(random_data(rng, shape));
  for (const char* act : {"merge", "merge(to=nearest)", "merge(weight=affine,keys=off)", "merge(weight=score)"}) {
    const EngineRun run = run_engine(std::string("score=key_norm schedule=step act=") + act, source,
                                     {.amount = sim::parse_amount("12t"), .compress_at = 50, .steps = 10});
    for (std::int64_t g = 0; g < 2; ++g) {
      const auto& count = run.cache.group(0, g).count;
      EXPECT_NEAR(std::accumulate(count.begin(), count.end(), 0.0), 60.0, 1e-3) << act;
    }
  }
}

TEST(Composition, KvCrushOverCakeBudgetsWithD2OMerging) {
  SyntheticShape shape{.layers = 4, .tokens = 120};
  std::mt19937_64 rng(9);
  const SyntheticSource source(random_data(rng, shape));
  const EngineRun run = run_engine(
      "score=all_heads(of=shifting_attention(window=8)) budget=preference(window=8) "
      "select=crush act=merge(weight=cosine,threshold=moving) schedule=each_layer",
      source, {.amount = sim::parse_amount("30t")});
  std::size_t sum = 0;
  std::int64_t merged = 0;
  for (std::int64_t l = 0; l < 4; ++l) sum += run.kept(l, 0).size() + run.kept(l, 1).size();
  EXPECT_EQ(sum, 4u * 2 * 30);
  for (const std::uint8_t state : run.cache.token_states(3, 0, sim::Part::key)) merged += state == 2;
  EXPECT_GT(merged, 0);
}

TEST(MergingPress, ValuesFoldIntoTheNearestKey) {
  const EngineRun run = run_engine("merging", geometry(), {.amount = sim::parse_amount("4t")});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 1, 2, 5));
  EXPECT_THAT(run.cache.group(0, 0).v,
              Pointwise(FloatNear(1e-3f), {.7888f, .1159f, .5714f, 1.2857f, .4062f, 1.4062f, 1.f, 1.f}));
}

TEST(Merging, FactoryVariants) {
  // Attention of the newest is uniform, so the first token is the other one kept; u = .5 between it and token 1.
  const SyntheticSource source(without_queries(keys_of({{2, 0}, {1, std::sqrt(3.0f)}, {0, -1}})));
  const auto merged = [&](const char* policy) {
    const EngineRun run = run_engine(policy, source, {.amount = sim::parse_amount("2t")});
    EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 2));
    EXPECT_EQ(run.cache.token_states(0, 0, sim::Part::key)[1], 0) << "the source is gone";
    return run.cache.group(0, 0).k;
  };
  const float root = std::sqrt(3.0f);
  EXPECT_THAT(merged("factory_merging(window=1,pool=1)"), Pointwise(FloatNear(1e-5f), {1.75f, root / 4, 0.f, -1.f}));
  EXPECT_THAT(merged("factory_merging(window=1,pool=1,merge=weighted)"),
              Pointwise(FloatNear(1e-5f), {2.75f / 1.75f, .75f * root / 1.75f, 0.f, -1.f}));
}

TEST(Merging, EmsMergesTheLikeAndDropsTheRest) {
  // Centres (1, 0) and (0, 1); (.9, .1) is like the first (.9939), (−1, 0) like none: below .6 it is dropped. Uniform
  // attention: means Σ 1/(i + 1) over the queries that saw a token: .4567 .3208 .2611 .225 .2; the last query's,
  // scaled to them, is .2927 everywhere.
  const SyntheticSource source(without_queries(keys_of({{1, 0}, {0, 1}, {.9f, .1f}, {-1, 0}, {0, -1}})));
  const EngineRun run = run_engine("ems-m(window=1,pool=1)", source, {.amount = sim::parse_amount("3t")});
  const sim::GroupSlots& slots = run.cache.group(0, 0);
  EXPECT_THAT(slots.position, ElementsAre(0, 1, 4));
  EXPECT_THAT(slots.count, ElementsAre(2, 1, 1));
  const float s0 = .456667f, s2 = .292722f;
  EXPECT_THAT(slots.k,
              Pointwise(FloatNear(1e-4f), {(s0 + .9f * s2) / (s0 + s2), .1f * s2 / (s0 + s2), 0.f, 1.f, 0.f, -1.f}));
  // A threshold that all reach: the other goes to the centre at cos 0, the lower position first.
  EXPECT_THAT(run_engine("ems-m(window=1,pool=1,least=-1)", source, {.amount = sim::parse_amount("3t")})
                  .cache.group(0, 0)
                  .count,
              ElementsAre(2, 2, 1));
  // Reach 1: nothing besides the centres is considered.
  EXPECT_THAT(
      run_engine("ems-m(window=1,pool=1,reach=1)", source, {.amount = sim::parse_amount("3t")}).cache.group(0, 0).count,
      ElementsAre(1, 1, 1));
}

TEST(Merging, D2OThresholdMoves) {
  // Token 0 stays at e0, the newest token stays besides; cosines to token 0 of those that leave: .6 .8 .6 .66.
  // τ = .6, then (.6 + .8)/2 = .7, (.7 + .6)/2 = .65: the third is dropped, (.65 + .66)/2 = .655: merged.
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 8, .tokens = 6, .rotary_dim = 0};
  std::mt19937_64 rng(11);
  SyntheticData data = random_data(rng, shape);
  const float cosine[] = {1, .6f, .8f, .6f, .66f, 0};
  for (std::int64_t t = 0; t < 6; ++t)
    for (std::int64_t d = 0; d < 8; ++d)
      data.k[0](t, d) = d == 0 ? cosine[t] : d == t ? std::sqrt(1 - cosine[t] * cosine[t]) : 0.0f;
  const EngineRun run = run_engine(
      "score=none select=sinks_recent(sinks=1) act=merge(to=similar,weight=cosine,threshold=moving,keys=off) "
      "schedule=step",
      SyntheticSource(data), {.amount = sim::parse_amount("2t"), .compress_at = 3, .steps = 3});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 5));
  EXPECT_THAT(run.cache.group(0, 0).count, ElementsAre(4, 1));  // itself, 1, 2 and 4
}

TEST(Merging, KvMergerAroundTheBestOfARun) {
  // Uniform attention: the first token received most and is the pivot.
  const SyntheticSource source(without_queries(keys_of({{1, 1}, {2, 1}, {1, 2}})));
  const EngineRun run = run_engine("kvmerger-m(recent=0,heavy=0,sink=0)", source, {.amount = sim::parse_amount("1t")});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0));
  EXPECT_THAT(run.cache.group(0, 0).k, Pointwise(FloatNear(1e-4f), {1.0870f, 1.0870f}));
}

TEST(Merging, ElasticMergesIntoTheNearest) {
  // Sums 4.25 1.375 .75 .875 .4 .2 .1 .05: 0, 1, 3 and the newest stay; 2 → 1 (ties: lower), 4 and 5 → 3, 6 → 7.
  const EngineRun run =
      run_engine("elastic(sink=0)", attention(), {.amount = sim::parse_amount("4t"), .compress_at = 8});
  const sim::GroupSlots& slots = run.cache.group(0, 0);
  EXPECT_THAT(slots.position, ElementsAre(0, 1, 3, 7));
  EXPECT_THAT(slots.count, ElementsAre(1, 2, 3, 2));
  EXPECT_FLOAT_EQ(slots.keys()(1, 1), .5f);
  EXPECT_FLOAT_EQ(slots.keys()(1, 2), .5f);
  for (const std::int64_t d : {3, 4, 5}) EXPECT_FLOAT_EQ(slots.keys()(2, d), 1.0f / 3) << d;
  // K at positions 0 and 4 of 0 and 4, dropped 1 with 2: K[0] = 1.
  const SyntheticSource line(without_queries(keys_of({{0, 1}, {2, 1}, {3, 1}, {3.5f, 1}, {4, 1}})));
  const EngineRun two = run_engine("elastic(sink=1)", line, {.amount = sim::parse_amount("4t")});
  EXPECT_THAT(two.kept(0, 0), ElementsAre(0, 1, 2, 4));
}

}  // namespace
}  // namespace kvgrind::tests
