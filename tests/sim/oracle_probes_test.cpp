// Worked examples of methods that read the context once more (KVzip and its kin), on the presets' own lines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "tests/sim/fast_kvzip_gate.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

// The largest of some rows of T8's table over columns 0 … keys − 1, each row over a norm.
std::vector<float> largest(int head, std::initializer_list<std::pair<int, double>> rows, std::size_t keys) {
  const auto table = t8_table(head);
  std::vector<float> out(keys);
  for (const auto& [row, norm] : rows)
    for (std::size_t j = 0; j < keys; ++j)
      out[j] = std::max(out[j], static_cast<float>(table[static_cast<std::size_t>(row)][j] / norm));
  return out;
}

ProbeColumns pass(ProbeStatistic statistic, std::vector<float> values) {
  ProbeColumns out{.number = 0, .begin = 0, .end = static_cast<std::int64_t>(values.size()), .columns = {}};
  out.of(statistic) = std::move(values);
  return out;
}

// T8 whose rows 6 and 7 repeat columns 0 … 5.
SyntheticData t8_with(std::int64_t layers, std::int64_t heads, std::int64_t kv_heads, std::int64_t tokens) {
  SyntheticData out = t8_geometry();
  out.tokens = tokens;
  out.card.layers = layers;
  out.card.query_heads = heads;
  out.card.kv_heads = kv_heads;
  out.card.layer.resize(static_cast<std::size_t>(layers));
  out.q.resize(static_cast<std::size_t>(layers * heads), out.q[0]);
  out.k.resize(static_cast<std::size_t>(layers * kv_heads), out.k[0]);
  out.v.resize(static_cast<std::size_t>(layers * kv_heads), out.v[0]);
  for (auto* list : {&out.q, &out.k, &out.v})
    for (auto& x : *list) {
      Array<float, 2> cut({tokens, 2});
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t d = 0; d < 2; ++d) cut(t, d) = x(t % x.extent(0), d);
      x = cut;
    }
  out.segments = {{Role::context, 0, tokens}};
  return out;
}

SyntheticSource repeated(ProbeStatistic statistic, double norm6, double norm7) {
  SyntheticSource source(t8_with(1, 2, 1, 6));
  source.given_probes = [=](std::int64_t, std::int64_t head, sim::Signal) {
    return std::vector<ProbeColumns>{pass(statistic, largest(static_cast<int>(head), {{6, norm6}, {7, norm7}}, 6))};
  };
  return source;
}

TEST(Kvzip, LargestAttentionOfRepeatRows) {
  const SyntheticSource source = repeated(ProbeStatistic::part_max, 1, 1);
  EXPECT_THAT(columns(source, "repeat_attention(sinks=0)").s,
              Pointwise(FloatNear(1e-6f), {.3f, .5f, .1f, .5f, .1f, .05f}));
  for (const char* preset : {"kvzip(sinks=0)", "kvzip(sinks=0,over=layer)", "kvzip(sinks=0,over=head)"}) {
    EXPECT_THAT(kept(source, preset, "3t"), ElementsAre(0, 1, 3)) << preset;
    EXPECT_THAT(kept(source, preset, "4t"), ElementsAre(0, 1, 2, 3)) << preset;  // of the two .1 the earlier
  }
  EXPECT_THAT(kept(source, "kvzip(sinks=5)", "3t"), ElementsAre(2, 3, 4));  // the newest of what is protected
}

TEST(Kvzip, PublishedThresholdKeepsOneFewer) {
  SyntheticSource source(t8_with(1, 1, 1, 10));
  source.given_probes = [](std::int64_t, std::int64_t, sim::Signal) {
    return std::vector<ProbeColumns>{
        pass(ProbeStatistic::part_max, {.1f, .9f, .2f, .8f, .3f, .7f, .4f, .6f, .5f, .05f})};
  };
  EXPECT_THAT(kept(source, "kvzip(sinks=0)", "0.3"), ElementsAre(1, 3, 5));
  EXPECT_THAT(kept(source, "kvzip(sinks=0,like=official)", "0.3"), ElementsAre(1, 3));
  EngineSetup setup{.amount = {sim::Amount::Kind::removed, .7}};  // int(10 · .7) = 7 go
  EXPECT_THAT(run_engine("kvzip(sinks=0,like=kvpress)", source, setup).kept(0, 0), ElementsAre(1, 3, 5));
}

TEST(Kvzip, PlusAndTheLabelOfKvzap) {
  const std::vector<float> expected = {.02f, .5f, .05f, 1, .15f, .0707107f};
  const SyntheticSource part = repeated(ProbeStatistic::part_max_norm, 2, 1);
  EXPECT_THAT(columns(part, "repeat_value_attention(sinks=0)").s, Pointwise(FloatNear(1e-5f), expected));
  EXPECT_THAT(kept(part, "kvzip(sinks=0,plus=on)", "2t"), ElementsAre(1, 3));
  EXPECT_THAT(kept(part, "kvzip(sinks=0,plus=on,over=head)", "4t"), ElementsAre(1, 3, 4, 5));
  EXPECT_THAT(
      columns(repeated(ProbeStatistic::row_max_norm, 2, 1), "repeat_value_attention(sinks=0,over=row,log=on)").s,
      Pointwise(FloatNear(1e-4f), {-3.9120f, -.6931f, -2.9957f, 0.0f, -1.8971f, -2.6492f}));
}

TEST(Kvzip, TokensOutsideTheContextStay) {
  SyntheticSource source(t8_with(1, 1, 1, 8));
  source.given_probes = [](std::int64_t, std::int64_t, sim::Signal) {
    ProbeColumns one = pass(ProbeStatistic::part_max, {.1f, .9f, .2f});
    one.begin = 2;
    one.end = 5;
    return std::vector<ProbeColumns>{one};
  };
  EXPECT_THAT(kept(source, "kvzip(sinks=0)", "6t"), ElementsAre(0, 1, 3, 5, 6, 7));
}

TEST(KvCompose, CompositesOfTwoLayers) {
  SyntheticSource source(t8_with(2, 2, 2, 4));
  source.given_probes = [](std::int64_t layer, std::int64_t head, sim::Signal kind) {
    EXPECT_EQ(kind, sim::Signal::reread_probe);
    return std::vector<ProbeColumns>{
        pass(ProbeStatistic::row_max, layer == 0 ? largest(static_cast<int>(head), {{6, 1}, {7, 1}}, 4)
                                                 : largest(static_cast<int>(head), {{4, 1}, {5, 1}}, 4))};
  };
  const EngineSetup setup{.amount = {sim::Amount::Kind::removed, .625}};  // 3 of 8 composites
  for (const char* preset : {"kvcompose", "kvcompose(like=kvpress)"}) {
    const EngineRun run = run_engine(preset, source, setup);
    EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 3)) << preset;
    EXPECT_THAT(run.kept(0, 1), ElementsAre(0, 1)) << preset;
    EXPECT_THAT(run.kept(1, 0), ElementsAre(0)) << preset;
    EXPECT_THAT(run.kept(1, 1), ElementsAre(0)) << preset;
  }
  // s: .55 .325 .125 .8 and .45 .775 .175 .4; .9 .2 .5 .35 and 1.1 .2 .3 .25: the six best of one pool.
  const EngineRun pool = run_engine("kvcompose(structured=off)", source, setup);
  EXPECT_THAT(pool.kept(0, 0), ElementsAre(0, 3));
  EXPECT_THAT(pool.kept(0, 1), ElementsAre(1));
  EXPECT_THAT(pool.kept(1, 0), ElementsAre(0, 2));
  EXPECT_THAT(pool.kept(1, 1), ElementsAre(0));
}

TEST(KvCompose, NoLayerIsLeftEmptyUnlessAsUpstream) {
  SyntheticSource source(t8_with(2, 1, 1, 4));
  source.given_probes = [](std::int64_t layer, std::int64_t, sim::Signal) {
    const float x = layer == 0 ? 1.0f : .001f;
    return std::vector<ProbeColumns>{pass(ProbeStatistic::row_max, {.4f * x, .3f * x, .2f * x, .1f * x})};
  };
  const auto sizes = [&](const char* preset) {
    const EngineRun run = run_engine(preset, source, {.amount = {sim::Amount::Kind::fraction, .5}});
    return std::vector<std::size_t>{run.kept(0, 0).size(), run.kept(1, 0).size()};
  };
  EXPECT_THAT(sizes("kvcompose"), ElementsAre(3, 1));
  EXPECT_THAT(sizes("kvcompose(like=kvpress)"), ElementsAre(4, 0));
}

EngineSetup with(const std::string& method, const SyntheticSource& source, Calibration fitted, const char* amount) {
  fitted.method = method;
  fitted.model = calibration_model(source.card());
  EngineSetup out{.amount = sim::parse_amount(amount)};
  out.calibration = std::make_shared<const Calibration>(std::move(fitted));
  return out;
}

// T8's keys stand in for the attention's input. Features: two query heads, key, value, two numbers each.
TEST(Kvzap, LinearAndTwoLayers) {
  Calibration linear;
  linear.tensors["w 0"] = {{8, 1}, {0, 0, 0, 0, .5f, -1, 0, 0}};  // -2.5 -4 -3.5 -2 -5 -3.5 -1.5 -5.5
  linear.tensors["b 0"] = {{1}, {-3}};
  const auto run = [&](const char* policy, const Calibration& fitted, const char* amount) {
    return run_engine(policy, geometry(), with("kvzap", geometry(), fitted, amount)).kept(0, 0);
  };
  EXPECT_THAT(run("kvzap(threshold=-4,window=2)", linear, "1"), ElementsAre(0, 1, 2, 3, 5, 6, 7));
  EXPECT_THAT(run("kvzap_topk", linear, "3t"), ElementsAre(0, 3, 6));
  EXPECT_THAT(run("kvzap_topk(over=layer)", linear, "3t"), ElementsAre(0, 3, 6));
  EXPECT_THAT(run("kvzap_topk(over=model)", linear, "5t"), ElementsAre(0, 2, 3, 5, 6));

  Calibration network;  // -2.1587 -3.8413 -3 -1.0455 -4.9545 -3.1587 -2 -4.0039
  network.numbers["gelu"] = 1;
  network.tensors["w1 0"] = {{8, 2}, {0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0}};
  network.tensors["b1 0"] = {{2}, {0, 0}};
  network.tensors["w2 0"] = {{2, 1}, {1, -1}};
  network.tensors["b2 0"] = {{1}, {-3}};
  EXPECT_THAT(run("kvzap_topk", network, "4t"), ElementsAre(0, 2, 3, 6));
  // Each prediction lies between two thresholds.
  const float expected[] = {-2.1587f, -3.8413f, -3, -1.0455f, -4.9545f, -3.1587f, -2, -4.0039f};
  for (std::int64_t t = 0; t < 8; ++t)
    for (const float off : {-1e-3f, 1e-3f}) {
      const std::string policy = "kvzap(window=0,threshold=" + std::to_string(expected[t] + off) + ")";
      const Positions stay = run(policy.c_str(), network, "1");
      EXPECT_EQ(std::count(stay.begin(), stay.end(), t), off < 0 ? 1 : 0) << policy;
    }
}

TEST(FastKvzip, GateByHand) {
  Calibration gate;
  set_fast_kvzip_gate(gate);
  gate.tensors["b 0"] = {{2}, {0, 1}};
  const auto run = [&](const char* policy, const char* amount) {
    return run_engine(policy, geometry(), with("fast_kvzip", geometry(), gate, amount)).kept(0, 0);
  };
  // .4738 .4738 .6186 .4738 .4738 .7078 .4138 .6135
  EXPECT_THAT(run("fast_kvzip(sinks=0)", "3t"), ElementsAre(2, 5, 7));
  EXPECT_THAT(run("fast_kvzip(sinks=0)", "7t"), ElementsAre(0, 1, 2, 3, 4, 5, 7));
  EXPECT_THAT(run("fast_kvzip(sinks=2,share=0.25)", "5t"), ElementsAre(0, 1, 5, 6, 7));
  const sim::PolicyPtr bound = sim::with_calibrations(
      sim::bind_policy("fast_kvzip(sinks=0)"),
      [&](const std::string&, const std::string&) { return with("fast_kvzip", geometry(), gate, "1").calibration; });
  sim::CacheState cache(geometry().card());
  geometry().feed(cache, 0, 8);
  const sim::RunFacts facts{.card = &geometry().card()};
  const sim::Moment moment{.tokens = 8, .compress = true};
  sim::Memory memory;
  const sim::Params none;
  const sim::ScoreContext context{none, facts, moment, geometry(), cache, 0, 0, memory};
  sim::Columns out;
  context.evaluate(bound->score, out);
  EXPECT_THAT(out.s, Pointwise(FloatNear(1e-4f), {.4738f, .4738f, .6186f, .4738f, .4738f, .7078f, .4138f, .6135f}));
}

TEST(RestoreKv, LearnedSlotsAreTakenFromTheBudget) {
  SyntheticSource source(t8_with(1, 2, 2, 6));
  source.given_probes = [](std::int64_t, std::int64_t head, sim::Signal) {
    return std::vector<ProbeColumns>{
        pass(ProbeStatistic::part_max, largest(static_cast<int>(head), {{6, 1}, {7, 1}}, 6))};
  };
  for (const sim::Amount amount :
       {sim::Amount{sim::Amount::Kind::removed, .5}, sim::Amount{sim::Amount::Kind::fraction, .5}}) {
    const EngineRun run = run_engine("restorekv(slots=1,sinks=0)", source, {.amount = amount});
    EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 3));
    EXPECT_THAT(run.kept(0, 1), ElementsAre(0, 1));
  }
}

TEST(RestoreKv, CountsOfALargeCache) {
  ModelCard card;
  card.layers = 32;
  card.query_heads = card.kv_heads = 8;
  const sim::PolicyPtr preset = sim::bind_policy("restorekv(like=kvpress)");
  std::vector<std::vector<float>> scores(256, std::vector<float>(1024));
  for (std::size_t g = 0; g < scores.size(); ++g)
    for (std::size_t j = 0; j < 1024; ++j) scores[g][j] = static_cast<float>((g * 1024 + j) * 7919 % 262144);
  std::vector<sim::BudgetGroup> groups;
  for (std::int64_t g = 0; g < 256; ++g)
    groups.push_back({g / 8, g % 8, 1024, 1024, 256, 256, scores[static_cast<std::size_t>(g)], 0, nullptr});
  const sim::RunFacts facts{.card = &card};
  const sim::Amount amount{sim::Amount::Kind::removed, .75};
  sim::Memory memory;
  preset->budget_row().allocate({preset->budget.params, facts, {}, attention(), amount, groups, memory});
  std::int64_t sum = 0;
  for (const auto& group : groups) sum += group.kept;
  EXPECT_EQ(sum, 63488);
}

TEST(EpiCache, LayersByTheirSensitivity) {
  SyntheticSource source =
      random_source_of({.layers = 3, .query_heads = 2, .kv_heads = 2, .head_dim = 2, .tokens = 400, .rotary_dim = 0});
  const auto layers = [&](const char* preset) {
    std::vector<std::size_t> out;
    const auto sets = kept_of_all(source, preset, "100t");
    for (std::size_t l = 0; l < 3; ++l) out.push_back((sets[2 * l].size() + sets[2 * l + 1].size()) / 2);
    return out;
  };
  EXPECT_THAT(layers("epicache(sensitivity=[1,0.5,0],power=2,like=official)"), ElementsAre(25, 60, 240));
  EXPECT_THAT(layers("epicache(sensitivity=[1,0.5,0],power=2)"), ElementsAre(25, 55, 220));
  EXPECT_THAT(layers("epicache"), ElementsAre(100, 100, 100));
  for (const auto& set : kept_of_all(source, "epicache(heads=uniform)", "100t")) EXPECT_EQ(set.size(), 100u);
}

TEST(EpiCache, EpisodesEachAndTogether) {
  SyntheticSource source(t8_with(1, 2, 1, 6));
  source.given_probes = [](std::int64_t, std::int64_t head, sim::Signal kind) {
    EXPECT_EQ(kind, sim::Signal::episode_probe);
    std::vector<ProbeColumns> out;
    for (int row : {6, 7}) {
      out.push_back(pass(ProbeStatistic::part_max, largest(static_cast<int>(head), {{row, 1}}, 6)));
      out.back().number = row - 6;
    }
    return out;
  };
  EXPECT_THAT(columns(source, "episode_attention(episode=0)").s,
              Pointwise(FloatNear(1e-6f), {.3f, .4f, .1f, .4f, .1f, .05f}));
  EXPECT_THAT(columns(source, "episode_attention(episode=1)").s,
              Pointwise(FloatNear(1e-6f), {.2f, .5f, .05f, .5f, .05f, .05f}));
  EXPECT_THAT(columns(source, "episode_attention").s, Pointwise(FloatNear(1e-6f), {.3f, .5f, .1f, .5f, .1f, .05f}));
  EXPECT_THAT(kept(source, "epicache(sinks=0,episode=1)", "3t"), ElementsAre(0, 1, 3));
  EXPECT_THROW(kept(source, "epicache(episode=2)", "3t"), Error);
}

}  // namespace
}  // namespace kvgrind::tests
