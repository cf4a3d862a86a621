// Methods whose parts are fitted beforehand, and head classes: worked examples on T8 and beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/cumulated_area.h"
#include "tests/sim/fast_kvzip_gate.h"
#include "tests/support/synthetic_source.h"
#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::HasSubstr;
using testing::Pointwise;

const SyntheticSource& geometry() {
  static const SyntheticSource source(t8_geometry());
  return source;
}

Calibration empty(const std::string& method, const ModelCard& card) {
  Calibration out;
  out.method = method;
  out.model = calibration_model(card);
  return out;
}

// Scores of a call over all tokens of the source with one calibration.
std::vector<float> scores(const SyntheticSource& source, const std::string& call, const Calibration& calibration,
                          std::int64_t tokens = 0) {
  const auto given = std::make_shared<const Calibration>(calibration);
  const sim::PolicyPtr policy = sim::with_calibrations(
      sim::bind_policy("score=" + call),
      [&](const std::string& method, const std::string&) { return method == given->method ? given : nullptr; });
  sim::CacheState cache(source.card());
  source.feed(cache, 0, source.tokens());
  const sim::Amount amount;
  const sim::RunFacts facts{.card = &source.card(), .amount = &amount};
  const sim::Moment moment{.tokens = tokens > 0 ? tokens : source.tokens(), .compress = true};
  sim::Memory memory;
  const sim::Params none;
  const sim::ScoreContext context{none, facts, moment, source, cache, 0, 0, memory};
  sim::Columns columns;
  context.evaluate(policy->score, columns);
  return columns.s;
}

TEST(QFilters, TheBestKeysLieAlongTheDirection) {
  Calibration fitted = empty("qfilters", geometry().card());
  fitted.tensors["direction"] = {{1, 1, 2}, {.6154f, .7882f}};
  EXPECT_THAT(scores(geometry(), "key_projection", fitted),
              Pointwise(FloatNear(2e-4f), {.6154f, .7882f, 1.4036f, 1.2308f, 1.5764f, -.6154f, -.1728f, 4.9991f}));
  EngineSetup setup{.amount = sim::parse_amount("3t")};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  EXPECT_THAT(run_engine("qfilters", geometry(), setup).kept(0, 0), ElementsAre(2, 4, 7));
  for (float& v : fitted.tensors["direction"].values) v = -v;  // the opposite keeps exactly the worst
  setup.calibration = std::make_shared<const Calibration>(fitted);
  EXPECT_THAT(run_engine("qfilters", geometry(), setup).kept(0, 0), ElementsAre(0, 5, 6));
}

TEST(ExpectedAttentionStats, StatisticsOfOtherTexts) {
  // Queries = K/4 with the first left out, no rotation, scale 1/√2.
  SyntheticData data = t8_geometry();
  data.card.scale = 1 / std::sqrt(2.0f);
  const SyntheticSource source(std::move(data));
  const auto with = [&](float factor) {
    Calibration fitted = empty("expected", source.card());
    fitted.tensors["mean"] = {{1, 2, 2}, {.214286f, .25f, .214286f, .25f}};
    std::vector<float> sigma;
    for (int h = 0; h < 2; ++h)
      for (const float x : {.113095f, .0625f, .0625f, .166667f}) sigma.push_back(x * factor);
    fitted.tensors["covariance"] = {{1, 2, 2, 2}, sigma};
    std::vector<float> s = scores(source, "expected_attention_stats(sinks=1)", fitted);
    return std::vector<float>(s.begin() + 1, s.end());
  };
  EXPECT_THAT(with(1), Pointwise(FloatNear(2e-3f), {.0636f, .0786f, .1550f, .2581f, .0639f, .0259f, 1.3354f}));
  EXPECT_THAT(with(6.0f / 7), Pointwise(FloatNear(2e-3f), {.0708f, .0866f, .1707f, .2820f, .0712f, .0288f, 1.2415f}));
}

TEST(TriAttention, SeriesInTheDistance) {
  // One complex pair, ω = 1, centre 1 + 0i of mean modulus 1.2, key i (before rotation) at position 3, seen from 10.
  SyntheticData data = t8_geometry();
  data.card.rope[0].inv_freq = {1.0f};
  const float angle = 3.0f;
  data.k[0](3, 0) = -std::sin(angle);
  data.k[0](3, 1) = std::cos(angle);
  const SyntheticSource source(std::move(data));
  Calibration fitted = empty("triattention", source.card());
  fitted.tensors["mean"] = {{1, 2, 2}, {1, 0, 1, 0}};
  fitted.tensors["modulus"] = {{1, 2, 1}, {1.2f, 1.2f}};
  EXPECT_NEAR(scores(source, "trigonometric(offsets=2,normalise=off)", fitted, 10)[3], .90074f, 1e-4);
  EXPECT_NEAR(scores(source, "trigonometric(offsets=2,normalise=off,residual=off)", fitted, 10)[3], 1.90074f, 1e-4);
}

TEST(LearnedScore, LinearByHand) {
  const ModelCard& card = geometry().card();
  Calibration fitted = empty("locret", card);
  // Features: two query heads, key, value, two numbers each. KVzap's worked example on the key alone.
  fitted.tensors["w 0"] = {{8, 1}, {0, 0, 0, 0, .5f, -1, 0, 0}};
  fitted.tensors["b 0"] = {{1}, {-3}};
  EXPECT_THAT(scores(geometry(), "learned_score", fitted),
              Pointwise(FloatNear(1e-5f), {-2.5f, -4.0f, -3.5f, -2.0f, -5.0f, -3.5f, -1.5f, -5.5f}));
  fitted.method = "attention_gate";
  fitted.numbers["logistic"] = 1;
  EXPECT_NEAR(scores(geometry(), "gate_score", fitted)[3], 1 / (1 + std::exp(2.0)), 1e-6);
}

TEST(FastKvzip, GatesByValue) {
  // Queries k and k with its parts exchanged, base keys (1, 0) and (0, 1), biases 0 and 1: the mean of the two gates.
  Calibration gate = empty("fast_kvzip", geometry().card());
  set_fast_kvzip_gate(gate);
  const auto gated = [&](float first, float second) {
    gate.tensors["b 0"] = {{2}, {first, second}};
    return scores(geometry(), "gate_attention(sinks=0,share=0)", gate);
  };
  EXPECT_THAT(gated(0, 1),
              Pointwise(FloatNear(1e-4f), {.4738f, .4738f, .6186f, .4738f, .4738f, .7078f, .4138f, .6135f}));
  const float shut = -1e4f;  // one gate alone: half of it
  EXPECT_THAT(gated(0, shut), Pointwise(FloatNear(1e-4f), {.5252f / 2, .5252f / 2, .5035f / 2, .5252f / 2, .5252f / 2,
                                                           .7504f / 2, .6200f / 2, .5040f / 2}));
  EXPECT_THAT(gated(shut, 1), Pointwise(FloatNear(1e-4f), {.4223f / 2, .4223f / 2, .7338f / 2, .4223f / 2, .4223f / 2,
                                                           .6652f / 2, .2077f / 2, .7230f / 2}));
}

TEST(Duo, ClassesOfHeads) {
  SyntheticShape shape{.layers = 1, .query_heads = 4, .kv_heads = 4, .tokens = 40};
  std::mt19937_64 rng(31);
  const SyntheticSource source(random_data(rng, shape));
  Calibration fitted = empty("duo", source.card());
  fitted.tensors["head"] = {{1, 4}, {.1f, .9f, .4f, .8f}};
  EngineSetup setup{.amount = sim::parse_amount("0.5")};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  for (const char* policy : {"duo(sinks=2,recent=6)", "duo(sinks=2,recent=6,like=kvpress)"}) {
    const EngineRun run = run_engine(policy, source, setup);  // quantile .6: heads 1 and 3 keep everything
    EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 1, 34, 35, 36, 37, 38, 39)) << policy;
    EXPECT_EQ(run.kept(0, 1).size(), 40u);
    EXPECT_EQ(run.kept(0, 2), run.kept(0, 0));
    EXPECT_EQ(run.kept(0, 3).size(), 40u);
  }
  EXPECT_EQ(run_engine("duo(share=0)", source, setup).kept(0, 0).size(), 40u);
}

TEST(DuoOnTheFly, AreasOfGivenRows) {
  EXPECT_NEAR(sim::cumulated_area(std::vector<double>(4, .25)), .625, 1e-12);
  EXPECT_NEAR(sim::cumulated_area(std::vector<double>{0, 0, 0, 1}), .25, 1e-12);
  for (int head = 0; head < 2; ++head) {
    std::vector<double> row;
    for (std::int64_t j = 0; j < 8; ++j) row.push_back(static_cast<double>(attention().probabilities(0, head)(7, j)));
    EXPECT_NEAR(sim::cumulated_area(row), head == 0 ? .65625 : .76875, 1e-5);
  }
}

TEST(DuoOnTheFly, UniformAttentionHasHalfTheArea) {
  SyntheticData data = t8_geometry();
  for (auto& q : data.q)
    for (std::int64_t t = 0; t < 8; ++t) q(t, 0) = q(t, 1) = 0;
  const SyntheticSource source(std::move(data));
  const sim::BoundCall call = sim::bind_call("score", parse_call("cumulated_attention(length=4)"), "");
  sim::CacheState cache(source.card());
  source.feed(cache, 0, 8);
  const sim::RunFacts facts{.card = &source.card()};
  const sim::Moment moment{.tokens = 8, .compress = true};
  sim::Memory memory;
  const sim::Params none;
  const sim::ScoreContext context{none, facts, moment, source, cache, 0, 0, memory};
  sim::Columns columns;
  context.evaluate(call, columns);
  EXPECT_NEAR(columns.figures["retrieval"], .625, 1e-9);  // (n + 1)/(2n)
  const EngineRun run = run_engine("duo_on_the_fly(share=1,sinks=1,recent=2)", source, {.amount = {}});
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 6, 7));
}

TEST(Block, StaticScoresEqualOneShot) {
  SyntheticShape shape{.tokens = 60};
  std::mt19937_64 rng(32);
  const SyntheticSource source(random_data(rng, shape));
  const EngineSetup setup{.amount = sim::parse_amount("17t")};
  for (const char* size : {"1", "7", "128"})
    EXPECT_EQ(run_engine(std::string("block(of=key_norm,size=") + size + ")", source, setup).kept(1, 1),
              run_engine("knorm", source, setup).kept(1, 1));
}

TEST(Block, KeyDiffByHand) {
  SyntheticData data = t8_geometry();
  for (std::int64_t j = 0; j < 8; ++j) {
    data.k[0](j, 0) += .1f * static_cast<float>(j);
    data.k[0](j, 1) -= .1f * static_cast<float>(j);
  }
  const SyntheticSource source(std::move(data));
  const EngineSetup setup{.amount = sim::parse_amount("3t")};
  EXPECT_THAT(run_engine("block(size=1)", source, setup).kept(0, 0), ElementsAre(1, 3, 5));
  EXPECT_THAT(run_engine("block(size=2)", source, setup).kept(0, 0), ElementsAre(1, 5, 6));
  EXPECT_THAT(run_engine("keydiff(like=kvpress)", source, setup).kept(0, 0), ElementsAre(1, 5, 6));
}

TEST(Dms, BelowTheThresholdOutsideTheWindow) {
  Calibration fitted = empty("locret", geometry().card());
  fitted.tensors["w 0"] = {{8, 1}, {0, 0, 0, 0, .5f, -1, 0, 0}};
  fitted.tensors["b 0"] = {{1}, {-3}};
  EngineSetup setup;
  setup.calibration = std::make_shared<const Calibration>(fitted);
  // Scores −2.5 −4 −3.5 −2 −5 −3.5 −1.5 −5.5: token 1 at the threshold stays, token 7 is in the window.
  EXPECT_THAT(run_engine("dms(of=learned_score,threshold=-4,window=2)", geometry(), setup).kept(0, 0),
              ElementsAre(0, 1, 2, 3, 5, 6, 7));
  EXPECT_THAT(run_engine("dms(of=learned_score,threshold=-4,window=0)", geometry(), setup).kept(0, 0),
              ElementsAre(0, 1, 2, 3, 5, 6));
  EXPECT_EQ(run_engine("dms(of=learned_score,threshold=-1e+30,window=0)", geometry(), setup).kept(0, 0).size(), 8u);
}

TEST(PerLayer, SharesFromAList) {
  SyntheticShape shape{.layers = 2, .tokens = 8};
  std::mt19937_64 rng(34);
  const SyntheticSource source(random_data(rng, shape));
  const EngineRun run = run_engine("per_layer(share=[0.5,0.25])", source, {.amount = {}});
  EXPECT_EQ(run.kept(0, 0).size(), 4u);
  EXPECT_EQ(run.kept(1, 1).size(), 2u);
  EXPECT_EQ(run_engine("per_layer(share=[1])", source, {.amount = {}}).kept(1, 0).size(), 8u);
  EXPECT_THROW((void)run_engine("per_layer(share=[1,1,1])", source, {.amount = {}}), Error);
}

TEST(DapQ, QueriesAtPositionsToCome) {
  SyntheticData data = t8_geometry();
  data.card.rope[0].inv_freq = {1.0f};
  for (std::int64_t t = 0; t < 8; ++t) {
    for (auto* x : {&data.k[0], &data.q[0], &data.q[1]}) {
      (*x)(t, 0) = std::cos(static_cast<float>(t));  // content (1, 0) rotated to its position
      (*x)(t, 1) = std::sin(static_cast<float>(t));
    }
  }
  data.tokens = 4;
  for (auto* list : {&data.q, &data.k, &data.v})
    for (auto& x : *list) {
      Array<float, 2> cut({4, 2});
      std::copy_n(x.data(), 8, cut.data());
      x = cut;
    }
  data.segments = {{Role::context, 0, 4}};
  const SyntheticSource source(std::move(data));
  const Calibration none = empty("", source.card());
  EXPECT_THAT(scores(source, "repositioned_queries(n=1,pool=1)", none),
              Pointwise(FloatNear(1e-4f), {.1592f, .1137f, .2018f, .5253f}));
  EXPECT_THAT(scores(source, "repositioned_queries(n=2,pool=1)", none),
              Pointwise(FloatNear(1e-4f), {.3102f, .1472f, .1654f, .3772f}));
}

TEST(Composed, TheSecondSeesWhatTheFirstLeaves) {
  // First the norms leave {0, 1, 2, 5} of 8 (√(2/8) = 1/2), then KeyDiff among those alone picks two.
  const EngineSetup two{.amount = sim::parse_amount("2t")}, four{.amount = sim::parse_amount("4t")};
  const auto first = run_engine("knorm", geometry(), four).kept(0, 0);
  SyntheticData rest = t8_geometry();
  rest.tokens = 4;
  for (auto* list : {&rest.q, &rest.k, &rest.v})
    for (auto& x : *list) {
      Array<float, 2> cut({4, 2});
      for (std::int64_t i = 0; i < 4; ++i)
        for (std::int64_t d = 0; d < 2; ++d) cut(i, d) = x(first[static_cast<std::size_t>(i)], d);
      x = cut;
    }
  rest.segments = {{Role::context, 0, 4}};
  std::vector<std::int64_t> want;
  for (const std::int64_t i : run_engine("keydiff(like=kvpress)", SyntheticSource(rest), two).kept(0, 0))
    want.push_back(first[static_cast<std::size_t>(i)]);
  EXPECT_EQ(run_engine("composed(first=key_norm,second=key_diff)", geometry(), two).kept(0, 0), want);
}

TEST(Calibrations, AreNamedWhenMissingAndCheckedAgainstTheModel) {
  SyntheticShape shape{.tokens = 20};
  std::mt19937_64 rng(33);
  const SyntheticSource source(random_data(rng, shape));
  const auto failure = [&](const sim::PolicyPtr& policy) {
    sim::CacheState cache(source.card());
    try {
      const sim::PolicyRun run({.policy = policy, .amount = {}}, source, cache);
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(failure(sim::bind_policy("locret")), HasSubstr("kvgrind fit locret"));
  auto other = empty("locret", source.card());
  other.model = "0123456789abcdef";
  const auto given = std::make_shared<const Calibration>(other);
  const auto policy = sim::with_calibrations(
      sim::bind_policy("locret"),
      [&](const std::string& method, const std::string&) { return method == "locret" ? given : nullptr; });
  EXPECT_THAT(failure(policy), HasSubstr("0123456789abcdef"));
  EXPECT_THAT(sim::canonical_line(*policy), HasSubstr(given->hash()));
  EXPECT_NE(sim::policy_hash(*policy), sim::policy_hash(*sim::bind_policy("locret")));
}

}  // namespace
}  // namespace kvgrind::tests
