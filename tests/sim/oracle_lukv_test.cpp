// LU-KV: worked examples of its rounding and of the preset's own line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

// T8 with a KV head for each query head.
SyntheticData two_heads() {
  SyntheticData data = t8_attention();
  data.card.kv_heads = 2;
  data.k.push_back(data.k[0]);
  data.v.push_back(data.v[0]);
  return data;
}

// The same shares dropped at every level.
EngineSetup setup_of(const ModelCard& card, const std::vector<float>& prune, const char* amount) {
  Calibration fitted;
  fitted.method = "lukv";
  fitted.model = calibration_model(card);
  CalibrationTensor& table = fitted.tensors["prune"];
  table.shape = {99, card.layers, card.kv_heads};
  for (int row = 0; row < 99; ++row) table.values.insert(table.values.end(), prune.begin(), prune.end());
  EngineSetup setup{.amount = sim::parse_amount(amount)};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  return setup;
}

TEST(LuKv, RoundedInEachLayer) {
  // x = (5.6, 3.52), N = 9: floors 5 and 3, the rest to .6.
  const SyntheticSource source(two_heads());
  const EngineRun run = run_engine("lukv-m(like=kvpress)", source, setup_of(source.card(), {.3f, .56f}, "4t"));
  EXPECT_THAT(run.requested, ElementsAre(6, 3));
  // The published total follows the table, ours the amount.
  const EngineRun exact = run_engine("lukv-m", source, setup_of(source.card(), {.3f, .56f}, "4t"));
  EXPECT_THAT(exact.requested, ElementsAre(5, 3));
}

TEST(LuKv, EachHeadItsOwnBest) {
  // Columns 0 … 5 by the window scores s0 and s1, two and one of them, beside the window of two.
  const SyntheticSource source(two_heads());
  const EngineRun run = run_engine("lukv-m(of=window_attention(window=2,pool=1),sink=0,window=0,like=kvpress)", source,
                                   setup_of(source.card(), {.5f, .625f}, "3t"));
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 3, 6, 7));
  EXPECT_THAT(run.kept(0, 1), ElementsAre(1, 6, 7));
}

TEST(LuKv, TheRowOfTheAmount) {
  const SyntheticSource source(two_heads());
  EngineSetup setup = setup_of(source.card(), {0, 0}, "0.5");
  Calibration fitted = *setup.calibration;
  fitted.tensors["prune"].values.assign(198, 0.0f);
  fitted.tensors["prune"].values[2 * 49] = 0.75f;  // 50 % dropped is row 49; head 0 keeps two of eight
  setup.calibration = std::make_shared<const Calibration>(fitted);
  EXPECT_THAT(run_engine("lukv-m(like=kvpress)", source, setup).requested, ElementsAre(2, 8));
  setup.amount = sim::parse_amount("0.51");
  EXPECT_THAT(run_engine("lukv-m(like=kvpress)", source, setup).requested, ElementsAre(8, 8));
  const EngineRun exact = run_engine("lukv-m", source, setup);
  EXPECT_EQ(std::accumulate(exact.requested.begin(), exact.requested.end(), std::int64_t{0}), 8);
}

}  // namespace
}  // namespace kvgrind::tests
