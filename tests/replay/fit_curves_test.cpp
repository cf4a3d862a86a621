// Curves of heads: against every way of sharing, and on heads that differ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/error.h"
#include "replay/fit/fit_data.h"
#include "replay/open_loop/open_loop.h"
#include "replay/sweep/grid.h"
#include "tests/replay/planted_run.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;

// The most that two heads can hold of n tokens in all, at least one each: every split tried.
double best_split(const std::vector<std::vector<double>>& curves, std::int64_t n) {
  double best = 0;
  for (std::int64_t a = 1; a < n; ++a) {
    const std::int64_t b = n - a;
    if (a >= static_cast<std::int64_t>(curves[0].size()) || b >= static_cast<std::int64_t>(curves[1].size())) continue;
    best = std::max(best, curves[0][static_cast<std::size_t>(a)] + curves[1][static_cast<std::size_t>(b)]);
  }
  return best;
}

TEST(HeadCurves, NoSplitHoldsMoreWhereScoresRankByMass) {
  std::mt19937_64 rng(51);
  for (int trial = 0; trial < 30; ++trial) {
    constexpr std::int64_t tokens = 20;
    std::vector<std::vector<double>> curves;
    for (int head = 0; head < 2; ++head) {
      std::vector<double> mass;
      for (std::int64_t t = 0; t < tokens; ++t) mass.push_back(static_cast<double>(rng() % 1000));
      std::sort(mass.rbegin(), mass.rend());
      std::vector<double> curve{0};
      for (const double m : mass) curve.push_back(curve.back() + m);
      curves.push_back(std::move(curve));
    }
    const auto counts = curve_counts(curves, tokens);
    ASSERT_EQ(counts.size(), 99u);
    for (std::size_t level = 1; level <= 95; ++level) {
      const std::vector<std::int64_t>& kept = counts[level - 1];
      const std::int64_t n = std::accumulate(kept.begin(), kept.end(), std::int64_t{0});
      EXPECT_EQ(
          n, std::max<std::int64_t>(2, std::lround(std::nearbyint(40.0 * (100.0 - static_cast<double>(level)) / 100))));
      double held = 0;
      for (std::size_t h = 0; h < 2; ++h) held += curves[h][static_cast<std::size_t>(kept[h])];
      EXPECT_NEAR(held, best_split(curves, n), 1e-9) << level;
    }
  }
}

FitRequest sharp_and_flat(std::uint64_t seed) {
  FitRequest out;
  out.method = "lukv";
  out.score = "window_attention(window=8,pool=1)";
  out.runs = {std::make_shared<const PlantedRun>(seed, 8, 0.2f)};
  return out;
}

TEST(HeadCurves, ASharpHeadIsServedFirstAndThenNeedsNoMore) {
  const Calibration fitted = fit(sharp_and_flat(1));
  const auto& table = fitted.tensor("prune", {99, 1, 2});
  for (std::size_t row : {19u, 29u, 39u}) EXPECT_GT(table.values[2 * row], table.values[2 * row + 1]) << row;
  EXPECT_LT(table.values[2 * 89], table.values[2 * 89 + 1]);
  EXPECT_LT(fitted.number("held_out_error", 9), 1.01);
  // Applied to other prompts it loses less than equal shares under the same score.
  const auto given = std::make_shared<const Calibration>(fitted);
  const SequenceData data(std::make_shared<const PlantedRun>(9, 8, 0.2f), 0);
  const auto recall = [&](const sim::PolicyPtr& policy) {
    return run_open(data, {.policy = policy, .amount = sim::parse_amount("0.5")}).metrics.at("recall.all").value;
  };
  EXPECT_GT(recall(calibrated_policy("lukv-m(of=window_attention(window=8,pool=1))", {given})),
            recall(sim::bind_policy("score=window_attention(window=8,pool=1) select=topk(sink=4,recent=1)")));
}

TEST(HeadCurves, JoinedScoresAreRefused) {
  FitRequest asked = sharp_and_flat(1);
  asked.score = "share(of=key_norm)";
  EXPECT_THROW((void)fit(asked), Error);
}

TEST(LayerCurves, LevelsAreMetAndGeneralise) {
  const Calibration fitted = fit(fit_request("prefixkv"));
  const auto& table = fitted.tensor("prune", {99, 1, 1});  // one layer takes it all
  for (std::size_t row = 0; row < 99; ++row)
    EXPECT_NEAR(table.values[row], 0.01 * static_cast<double>(row + 1), 0.5 / 60 + 1e-6);
  SyntheticOptions options;
  options.contexts = 4;
  FitRequest two;
  two.method = "prefixkv";
  two.runs = {std::make_shared<const SyntheticRun>(options)};
  const Calibration layers = fit(two);
  const auto& both = layers.tensor("prune", {99, 2, 1});
  for (std::size_t row = 0; row < 99; ++row)
    EXPECT_NEAR(0.5f * (both.values[2 * row] + both.values[2 * row + 1]), 0.01 * static_cast<double>(row + 1), 0.003);
  EXPECT_LT(layers.number("held_out_error", 1), 0.1);
}

}  // namespace
}  // namespace kvgrind::tests
