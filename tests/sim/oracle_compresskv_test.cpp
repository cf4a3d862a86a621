// CompressKV: a list of heads decides for the layer, and layers share by importance.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/sim/head_and_layer_fit.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

TEST(CompressKv, BudgetsByImportance) {
  std::mt19937_64 rng(91);
  const SyntheticSource source(random_data(rng, {.layers = 3, .query_heads = 1, .kv_heads = 1, .tokens = 400}));
  const EngineSetup setup = head_and_layer_fit("compresskv", source.card(), {1, 1, 1}, {.5f, .3f, .2f}, "100t");
  for (const char* like : {"paper", "official"})
    EXPECT_THAT(run_engine(std::string("compresskv(most=1.5,like=") + like + ")", source, setup).requested,
                ElementsAre(134, 93, 73));
  // A layer at its bound: what it cannot hold goes to the others.
  for (const char* like : {"paper", "official"}) {
    const auto counts = run_engine(std::string("compresskv(most=1.2,like=") + like + ")", source, setup).requested;
    EXPECT_EQ(counts[0], 120) << like;
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), 300) << like;
  }
}

TEST(CompressKv, TheListDecidesForAllHeads) {
  // T8 with a KV head for each query head; window scores s0 and s1 of columns 0 … 5.
  SyntheticData data = t8_attention();
  data.card.kv_heads = 2;
  data.k.push_back(data.k[0]);
  data.v.push_back(data.v[0]);
  const SyntheticSource source(std::move(data));
  const auto kept = [&](const char* heads, std::vector<float> score) {
    const EngineRun run = run_engine(std::string("compresskv(window=2,pool=1,least=0,heads=") + heads + ")", source,
                                     head_and_layer_fit("compresskv", source.card(), std::move(score), {1}, "4t"));
    EXPECT_EQ(run.kept(0, 0), run.kept(0, 1));
    return run.kept(0, 1);
  };
  EXPECT_THAT(kept("1", {1, 0}), ElementsAre(0, 3, 6, 7));  // by head 0
  EXPECT_THAT(kept("1", {0, 1}), ElementsAre(0, 1, 6, 7));  // by head 1
  EXPECT_THAT(kept("2", {0, 1}), ElementsAre(1, 3, 6, 7));  // mean: .225 .25 .0625 .2625 .075 .05
}

}  // namespace
}  // namespace kvgrind::tests
