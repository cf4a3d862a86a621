// Worked examples by value, where another test sees the kept set alone; and what every policy does when heads change
// places or a head's scores grow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using testing::FloatNear;
using testing::Pointwise;

TEST(Cur, EnergyOfKeysAndValues) {
  EXPECT_THAT(columns(geometry(), "cur_energy(window=4,sinks=1)").s,
              Pointwise(FloatNear(1e-4f), {1.0f, .0293f, .0586f, .4688f, .0975f, .0054f, .0013f, .3387f}));
}

TEST(LongGen, TheMiddleThirdOfAllLayersIsFull) {
  SyntheticShape shape{.layers = 33, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 100, .rotary_dim = 0};
  std::mt19937_64 rng(4);
  const SyntheticSource source(random_data(rng, shape));
  const EngineRun run = run_engine("longgen-m(sinks=1)", source, {.amount = sim::parse_amount("0.07")});
  double kept = 0;
  for (std::int64_t layer = 0; layer < 33; ++layer) {
    const std::size_t n = run.kept(layer, 0).size();
    EXPECT_EQ(n, layer >= 11 && layer <= 21 ? 100u : 7u) << layer;
    kept += static_cast<double>(n);
  }
  EXPECT_NEAR(kept / 3300, .38, .001);  // 62 % less
}

// KV heads of every layer, with their query heads, in the opposite order.
SyntheticData reversed_heads(const SyntheticData& data) {
  SyntheticData out = data;
  const std::int64_t heads = data.card.kv_heads, group = data.card.query_heads / heads;
  for (std::int64_t l = 0; l < data.card.layers; ++l)
    for (std::int64_t g = 0; g < heads; ++g) {
      const auto to = static_cast<std::size_t>(l * heads + heads - 1 - g),
                 from = static_cast<std::size_t>(l * heads + g);
      out.k[to] = data.k[from];
      out.v[to] = data.v[from];
      for (std::int64_t u = 0; u < group; ++u)
        out.q[to * static_cast<std::size_t>(group) + static_cast<std::size_t>(u)] =
            data.q[from * static_cast<std::size_t>(group) + static_cast<std::size_t>(u)];
    }
  return out;
}

TEST(Heads, InAnotherOrderTheyKeepTheSame) {
  const std::map<std::string, const char*> exempt = {
      {"random", "draws by the head's number"},
      {"keyformer", "noise by the head's number"},
  };
  std::set<std::string> differ;
  for_all(41, 2, [&](std::mt19937_64& rng) {
    SyntheticData data = random_data(rng, {.layers = 2, .query_heads = 6, .kv_heads = 3, .tokens = 160});
    std::uniform_real_distribution<float> norm(0.5f, 2.0f);
    for (std::int64_t l = 0; l < 2; ++l) {
      auto& row = data.hidden_norm.emplace_back();
      for (std::int64_t t = 0; t < 160; ++t) row.push_back(norm(rng));
    }
    data.spans = {{"image", 2, 8, ""}, {"image", 14, 20, ""}};
    for (std::int64_t t = 0; t < 160; t += 5)
      data.spans.push_back({"sentence", t, std::min<std::int64_t>(t + 5, 160), ""});
    data.segments = {{Role::context, 0, 140}, {Role::question, 140, 160}};
    const SyntheticSource source(data), other(reversed_heads(data));
    for (const std::string& preset : sim::preset_names()) {
      const auto policy = sim::bind_policy(preset);
      if (!sim::needed_calibrations(*policy).empty()) continue;  // fitted for heads in their places
      SCOPED_TRACE(preset);
      const EngineSetup setup{.amount = sim::parse_amount("0.6"), .compress_at = 156, .steps = 4};
      const EngineRun a = run_engine(preset, source, setup), b = run_engine(preset, other, setup);
      for (std::int64_t layer = 0; layer < 2; ++layer)
        for (std::int64_t g = 0; g < a.cache.heads(); ++g)
          if (a.kept(layer, g) != b.kept(layer, a.cache.heads() - 1 - g)) differ.insert(preset);
    }
  });
  std::set<std::string> known;
  for (const auto& [preset, why] : exempt) known.insert(preset);
  EXPECT_EQ(differ, known);
}

TEST(Heads, ScoresThatGrowTogetherMatterOnlyAcrossHeads) {
  for_all(43, 20, [](std::mt19937_64& rng) {
    SyntheticData data = random_data(rng, {.layers = 1, .query_heads = 2, .kv_heads = 2, .tokens = 40});
    const SyntheticSource source(data);
    for (std::int64_t t = 0; t < 40; ++t)
      for (std::int64_t d = 0; d < 8; ++d) data.k[0](t, d) *= 16;  // norms of head 0: all scores sixteen times
    const SyntheticSource grown(data);
    const EngineSetup setup{.amount = sim::parse_amount("0.3")};
    const auto kept = [&](const SyntheticSource& from, const char* budget, std::int64_t g) {
      return run_engine(std::string("score=key_norm select=topk budget=") + budget, from, setup).kept(0, g);
    };
    for (const std::int64_t g : {0, 1}) EXPECT_EQ(kept(source, "uniform", g), kept(grown, "uniform", g));
    EXPECT_LT(kept(grown, "cross_head", 0).size(), kept(source, "cross_head", 0).size());
    EXPECT_GT(kept(grown, "cross_head", 1).size(), kept(source, "cross_head", 1).size());
  });
}

}  // namespace
}  // namespace kvgrind::tests
