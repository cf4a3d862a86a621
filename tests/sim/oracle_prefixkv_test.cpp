// PrefixKV: one share of attention for all layers, and ratios fitted beforehand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

// Two layers of four tokens: column sums in the ratio .7 .1 .1 .1, and all alike.
SyntheticData two_layers() {
  SyntheticShape shape{.layers = 2, .query_heads = 1, .kv_heads = 1, .head_dim = 8, .tokens = 4, .rotary_dim = 0};
  std::mt19937_64 rng(61);
  SyntheticData data = random_data(rng, shape);
  data.card.scale = 1;
  for (std::size_t layer = 0; layer < 2; ++layer)
    for (std::int64_t i = 0; i < 4; ++i)
      for (std::int64_t j = 0; j < 8; ++j) {
        data.k[layer](i, j) = i == j ? 1.0f : 0.0f;
        const double p = layer == 1 ? i == j : i == 0 ? j == 0 : j == 0 ? .6 : i == j ? .4 : 0;
        data.q[layer](i, j) = p > 0 ? static_cast<float>(std::log(p)) : -60.0f;
      }
  return data;
}

TEST(PrefixKv, OneLevelForAllLayers) {
  const SyntheticSource source(two_layers());
  const EngineRun run = run_engine("prefixkv(sink=0,protect=0)", source, {.amount = sim::parse_amount("2t")});
  EXPECT_THAT(run.requested, ElementsAre(1, 3));
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0));
}

TEST(PrefixKv, LaterTokensShareAsThePromptDid) {
  std::mt19937_64 rng(62);
  const SyntheticSource source(random_data(rng, {.layers = 3, .tokens = 60}));
  const EngineSetup setup{.amount = sim::parse_amount("20t"), .compress_at = 40};
  EngineSetup later = setup;
  later.steps = 20;
  EXPECT_EQ(run_engine("prefixkv", source, setup).requested, run_engine("prefixkv", source, later).requested);
}

TEST(PrefixKv, PublishedRatiosAreRoundedByThemselves) {
  std::mt19937_64 rng(63);
  const SyntheticSource source(random_data(rng, {.layers = 3, .tokens = 1000}));
  Calibration fitted;
  fitted.method = "prefixkv";
  fitted.model = calibration_model(source.card());
  CalibrationTensor& table = fitted.tensors["prune"];
  table.shape = {99, 3, 1};
  for (int row = 0; row < 99; ++row) table.values.insert(table.values.end(), {.114f, .240f, .765f});
  EngineSetup setup{.amount = sim::parse_amount("0.5")};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  EXPECT_THAT(run_engine("prefixkv(like=official)", source, setup).requested,
              ElementsAre(886, 886, 760, 760, 235, 235));
}

}  // namespace
}  // namespace kvgrind::tests
