// Worked examples of published methods on the fixture T8 and beside it: scores, budgets, selectors and merges computed
// by hand from the formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "sim/engine/apportion.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

std::vector<float> front(std::vector<float> list, std::size_t n) {
  list.resize(n);
  return list;
}

// Counts that a budget gives one head in each of several layers.
struct Given {
  std::vector<std::map<std::string, double, std::less<>>> figures;
  std::vector<std::vector<float>> scores;
};
std::vector<std::int64_t> counts(const std::string& call, std::int64_t layers, std::int64_t tokens, std::int64_t base,
                                 const Given& given = {}) {
  ModelCard card;
  card.layers = layers;
  card.query_heads = card.kv_heads = 1;
  const sim::BoundCall bound = sim::bind_call("budget", parse_call(call), call);
  std::vector<sim::Columns> held(static_cast<std::size_t>(layers));
  std::vector<sim::BudgetGroup> groups;
  for (std::int64_t l = 0; l < layers; ++l) {
    const auto at = static_cast<std::size_t>(l);
    if (at < given.figures.size()) held[at].figures = given.figures[at];
    if (at < given.scores.size()) held[at].s = given.scores[at];
    groups.push_back({l, 0, tokens, tokens, base, static_cast<double>(base), held[at].s, 0, &held[at]});
  }
  const sim::RunFacts facts{.card = &card};
  const sim::Amount amount{sim::Amount::Kind::tokens, static_cast<double>(base)};
  sim::Memory memory;
  std::get<const sim::BudgetRow*>(bound.row)->allocate({bound.params, facts, {}, attention(), amount, groups, memory});
  std::vector<std::int64_t> out;
  for (const auto& group : groups) out.push_back(group.kept);
  return out;
}

// What a selector keeps of n slots at positions 0 … n − 1.
sim::Selection selected(const std::string& call, std::vector<float> s, std::int64_t budget, std::int64_t layers = 1,
                        std::int64_t layer = 0, std::int64_t heads = 1, std::int64_t group = 0,
                        const sim::Columns& more = {}, View<const float, 2> keys = {}) {
  const sim::BoundCall bound = sim::bind_call("select", parse_call(call), call);
  ModelCard card;
  card.layers = layers;
  card.query_heads = card.kv_heads = heads;
  const sim::RunFacts facts{.card = &card};
  sim::GroupSlots slots;
  slots.position.resize(s.size());
  std::iota(slots.position.begin(), slots.position.end(), 0);
  slots.rotary = slots.position;
  slots.count.assign(s.size(), 1.0f);
  sim::Columns own = more;
  const sim::Moment moment{.tokens = static_cast<std::int64_t>(s.size()), .compress = true};
  own.s = std::move(s);
  std::int64_t nan = 0;
  sim::Memory memory;
  return std::get<const sim::SelectRow*>(bound.row)->select(
      {bound.params, facts, moment, slots, own, layer, group, budget, nan, memory, keys, keys});
}

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

TEST(D2O, RatiosOfTheOfficialBudget) {
  // Variances whose normalised mean is F: one head 0, one at the top, the third at 3 F − 1 of the way.
  const auto layer = [](double f) {
    std::map<std::string, double, std::less<>> out;
    for (int h = 0; h < 10; ++h) out["variance " + std::to_string(h)] = h < std::lround(10 * f) ? 1e6 : 0.0;
    return out;
  };
  const Given given{.figures = {layer(.2), layer(.4)}, .scores = {}};
  EXPECT_THAT(counts("density_shares(rounding=official)", 2, 1000000, 200000, given), ElementsAre(219933, 180066));
  const auto exact = counts("density_shares", 2, 1000000, 200000, given);
  EXPECT_EQ(exact[0] + exact[1], 400000);
  EXPECT_NEAR(static_cast<double>(exact[0]), 219934, 1);
}

TEST(Cake, PreferenceScoresAndAdjustment) {
  const sim::Columns flat = columns(attention(), "shifting_attention(window=2,pool=1)");
  EXPECT_NEAR(flat.figures.at("entropy"), 5.4715, 1e-3);
  EXPECT_NEAR(flat.figures.at("shift"), .02, 1e-5);
  EXPECT_THAT(
      front(columns(attention(), "shifting_attention(window=2,pool=1,reduce=none)", sim::Granularity::query_head).s, 6),
      Pointwise(FloatNear(1e-3f), {1.25f, .05f, .05f, 1.45f, .325f, .05f}));
  Given given;
  for (const double p : {8.0, 4.0, 2.0, 2.0}) given.figures.push_back({{"entropy", p}, {"shift", 1.0}});
  EXPECT_THAT(counts("preference(window=0,rounding=official)", 4, 6, 4, given), ElementsAre(6, 5, 3, 2));
  const auto exact = counts("preference(window=0)", 4, 6, 4, given);
  EXPECT_EQ(std::accumulate(exact.begin(), exact.end(), std::int64_t{0}), 16);
  EXPECT_EQ(exact[0], 6);
}

TEST(KvCrush, BlocksByHammingDistance) {
  const std::vector<float> s{.1f, .2f, .3f, .8f, .9f, .7f};
  EXPECT_THAT(selected("crush_blocks(block=2,share=1,anchor=ones)", s, 2).kept, ElementsAre(4, 5));
  EXPECT_THAT(selected("crush_blocks(block=2,share=1,anchor=ones)", s, 4).kept, ElementsAre(2, 3, 4, 5));
}

TEST(Allocators, OthersOfTheCatalogue) {
  EXPECT_THAT(counts("mass", 2, 4, 2, {.figures = {}, .scores = {{.7f, .1f, .1f, .1f}, {.25f, .25f, .25f, .25f}}}),
              ElementsAre(1, 3));
  EXPECT_THAT(counts("mass(p=0.75)", 1, 3, 1, {.figures = {}, .scores = {{.5f, .3f, .2f}}}), ElementsAre(2));
  const auto window = counts("layer_steps(layers=8,beta=14,rounding=official)", 32, 1 << 20, 2048);
  EXPECT_THAT((Positions{window[0], window[8], window[16], window[24]}), ElementsAre(2926, 2341, 1756, 1170));
  EXPECT_THAT(counts("recursions(n=3)", 3, 10, 1), ElementsAre(10, 6, 3));
  const auto third = counts("full_layers", 33, 100, 7);
  for (std::size_t l = 0; l < 33; ++l) EXPECT_EQ(third[l], l >= 11 && l < 22 ? 100 : 7) << l;
  EXPECT_THAT(counts("head_weights(of=[0.5,0.3,0.2],floor=0)", 3, 1000, 100), ElementsAre(150, 90, 60));
}

TEST(Apportion, ExactWithinBounds) {
  std::mt19937_64 rng(3);
  for (int trial = 0; trial < 300; ++trial) {
    const std::size_t n = 1 + rng() % 9;
    std::vector<double> weight(n);
    std::vector<std::int64_t> low(n), high(n);
    std::int64_t least = 0, most = 0;
    for (std::size_t i = 0; i < n; ++i) {
      weight[i] = rng() % 4 ? static_cast<double>(rng() % 1000) : 0.0;
      low[i] = static_cast<std::int64_t>(rng() % 5);
      high[i] = low[i] + static_cast<std::int64_t>(rng() % 40);
      least += low[i];
      most += high[i];
    }
    const std::int64_t total = static_cast<std::int64_t>(rng() % 200);
    const auto out = sim::apportion(weight, total, low, high);
    EXPECT_EQ(std::accumulate(out.begin(), out.end(), std::int64_t{0}), std::clamp(total, least, most));
    for (std::size_t i = 0; i < n; ++i) EXPECT_TRUE(out[i] >= low[i] && out[i] <= high[i]);
  }
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

TEST(KvDirect, ResidualsAgainstKeysAndValues) {
  SyntheticShape shape{.layers = 34, .query_heads = 4, .kv_heads = 4, .head_dim = 256, .tokens = 3, .rotary_dim = 0};
  std::mt19937_64 rng(4);
  SyntheticData data = random_data(rng, shape);
  data.card.hidden = 2560;
  const SyntheticSource source(data);
  EXPECT_EQ(source.card().kv_bytes_per_token(), 139264);
  const auto ledger = [&](const char* policy) {
    return run_engine(policy, source, {.amount = sim::parse_amount("1t")}).cache.ledger();
  };
  const sim::Ledger single = ledger("kvdirect-m"), layers = ledger("kvdirect-m(checkpoint=layers)");
  EXPECT_EQ(single.residual_bytes, 2 * 5120);
  EXPECT_EQ(layers.residual_bytes, 2 * 174080);
  EXPECT_EQ(single.stored_bytes(), 139264 + 2 * 5120);
  EXPECT_EQ(single.recomputed, 2 * 34 * 4);
}

TEST(DkvCache, StoredOneStepLater) {
  SyntheticShape shape{.layers = 1, .tokens = 12};
  std::mt19937_64 rng(5);
  const SyntheticSource source(random_data(rng, shape));
  // After step 4 (tokens 0 … 4 behind a prompt of 6): the newest is computed again, all others are served.
  const EngineRun run =
      run_engine("dkvcache(refresh=0)", source, {.amount = sim::parse_amount("1"), .compress_at = 6, .steps = 5});
  const auto states = run.cache.token_states(0, 0, sim::Part::key);
  for (std::size_t t = 0; t < 11; ++t) EXPECT_EQ(states[t], t == 10 ? 4 : 1) << t;
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

// T8 and one more token, which reads.
TEST(Reads, LoopServeAndAlisaChooseByTheLastQueries) {
  SyntheticData data = t8_attention();
  data.tokens = 9;
  for (auto* list : {&data.q, &data.k, &data.v})
    for (Array<float, 2>& x : *list) {
      Array<float, 2> longer({9, 8});
      std::copy_n(x.data(), 64, longer.data());
      x = std::move(longer);
    }
  const SyntheticSource source(data);
  const auto chosen = [&](const char* policy, const char* amount) {
    const sim::PolicyPtr bound = sim::bind_policy(policy);
    sim::CacheState cache(source.card());
    sim::PolicyRun run({.policy = bound, .amount = sim::parse_amount(amount)}, source, cache);
    source.feed(cache, 0, 8);
    run.segment_end(Role::context, 8, true);
    source.feed(cache, 8, 1);
    return run.read(0, 8, source.query_block(0, 8, 1)).slots.at(0).at(0);
  };
  // Sums over q6 and q7: .45 .5 .125 .525 .15 .1.
  EXPECT_THAT(chosen("loopserve-m(n=2)", "4t"), ElementsAre(1, 3, 6, 7, 8));
  const auto alisa = chosen("alisa-m(host=0)", "5t");
  EXPECT_EQ(alisa.size(), 5u);
  EXPECT_THAT(alisa, testing::IsSupersetOf({1, 3, 7, 8}));
}

// ---- merging -----------------------------------------------------------------------------------------------------

SyntheticData keys_of(const std::vector<std::vector<float>>& keys) {
  SyntheticShape shape{.layers = 1,
                       .query_heads = 1,
                       .kv_heads = 1,
                       .head_dim = 2,
                       .tokens = static_cast<std::int64_t>(keys.size()),
                       .rotary_dim = 0};
  std::mt19937_64 rng(6);
  SyntheticData data = random_data(rng, shape);
  for (std::size_t t = 0; t < keys.size(); ++t)
    for (std::size_t d = 0; d < 2; ++d)
      data.k[0](static_cast<std::int64_t>(t), static_cast<std::int64_t>(d)) = keys[t][d];
  return data;
}

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

// ---- older presets -----------------------------------------------------------------------------------------------

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

TEST(AdaKv, CountsOfHeads) {
  const auto heads = [](const std::string& call, std::vector<std::vector<float>> scores, std::int64_t base) {
    const sim::BoundCall bound = sim::bind_call("budget", parse_call(call), call);
    std::vector<sim::BudgetGroup> groups;
    for (std::size_t g = 0; g < scores.size(); ++g)
      groups.push_back({0, static_cast<std::int64_t>(g), static_cast<std::int64_t>(scores[g].size()),
                        static_cast<std::int64_t>(scores[g].size()), base, static_cast<double>(base), scores[g], 0});
    const sim::RunFacts facts{.card = &attention().card()};
    const sim::Amount amount{sim::Amount::Kind::tokens, static_cast<double>(base)};
    sim::Memory memory;
    std::get<const sim::BudgetRow*>(bound.row)->allocate(
        {bound.params, facts, {}, attention(), amount, groups, memory});
    return Positions{groups[0].kept, groups[1].kept};
  };
  const std::vector<std::vector<float>> small{{.5f, .3f, .1f, .1f}, {.4f, .05f, .03f, .02f}};
  EXPECT_THAT(heads("cross_head(floor=0.2,rounding=official)", small, 2), ElementsAre(2, 1));
  EXPECT_THAT(heads("cross_head(floor=0.2)", small, 2), ElementsAre(3, 1));
  std::vector<std::vector<float>> long_heads(2);
  for (int i = 0; i < 20; ++i) {
    long_heads[0].push_back(1 - .01f * static_cast<float>(i));
    long_heads[1].push_back(.5f - .01f * static_cast<float>(i));
  }
  EXPECT_THAT(heads("cross_head(floor=0.2,rounding=official)", long_heads, 10), ElementsAre(18, 2));
}

TEST(Cur, WindowNormalisedEnergy) {
  EXPECT_THAT(kept(geometry(), "score=cur_energy(sinks=1,window=4)", "4t"), ElementsAre(0, 3, 4, 7));
}

TEST(MergingPress, ValuesFoldIntoTheNearestKey) {
  const EngineRun run = run_engine("merging", geometry(), {.amount = sim::parse_amount("4t")});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 1, 2, 5));
  EXPECT_THAT(run.cache.group(0, 0).v,
              Pointwise(FloatNear(1e-3f), {.7888f, .1159f, .5714f, 1.2857f, .4062f, 1.4062f, 1.f, 1.f}));
}

TEST(Cards, ClosedLoopMethodsSayWhatTheOpenLoopLeavesOut) {
  for (const sim::MethodCard& card : sim::method_cards()) {
    if (card.data.at("fidelity").as_string() != "CL") continue;
    EXPECT_FALSE(sim::read_method(card).open_loop.empty()) << card.name;
    EXPECT_FALSE(sim::approximated(*sim::bind_policy(card.name)).empty()) << card.name;
  }
}

}  // namespace
}  // namespace kvgrind::tests
