#include "replay/validate/agreement.h"

#include <gtest/gtest.h>

#include "tests/support/for_all.h"

namespace kvgrind::replay {
namespace {

// `good` is the truth plus a little noise, `noise` is unrelated, three amounts.
std::vector<Cell> cells_of(std::mt19937_64& rng, std::size_t methods, std::size_t prompts) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<Cell> cells;
  for (std::size_t m = 0; m < methods; ++m)
    for (const char* amount : {"0.5", "0.2", "0.1"}) {
      Cell cell{.method = "m" + std::to_string(m), .amount = amount};
      const double level = uniform(rng) * 0.6;
      for (std::size_t p = 0; p < prompts; ++p) {
        cell.truth.push_back(level + 0.05 * normal(rng));
        cell.figure["good"].push_back(level + 0.02 * normal(rng));
        cell.figure["noise"].push_back(normal(rng));
      }
      cells.push_back(std::move(cell));
    }
  return cells;
}

TEST(Agreement, TellsAGoodFigureFromNoise) {
  tests::for_all(3, 3, [](std::mt19937_64& rng) {
    const auto cells = cells_of(rng, 12, 30);
    const auto rows = agreement(cells, {.resamples = 100, .splits = 50});
    ASSERT_EQ(rows.size(), 8u);  // two figures, pooled and three amounts
    for (const Agreement& row : rows) {
      if (row.figure != "good") continue;
      EXPECT_GT(row.spearman.value, 0.9);
      EXPECT_LE(row.spearman.lo, row.spearman.value + 1e-9);
      EXPECT_GT(row.ceiling, 0.9);
    }
    EXPECT_EQ(rows[0].cells, 36);
    EXPECT_LT(std::abs(rows[1].spearman.value), 0.6);
    EXPECT_EQ(rows[1].figure, "noise");
  });
}

TEST(Agreement, DecisionGivesAwayTheDifference) {
  std::vector<Cell> cells(4);
  const double truth[] = {0.1, 0.3, 0.0, 0.0}, figure[] = {0.2, 0.1, 0.0, 0.0};
  for (std::size_t i = 0; i < 4; ++i)
    cells[i] = {.method = "m" + std::to_string(i),
                .amount = "0.5",
                .oracle = i == 2,
                .over = i == 3,
                .truth = {truth[i], truth[i]},
                .figure = {{"f", {figure[i], figure[i]}}}};
  const auto chosen = decisions(cells);
  ASSERT_EQ(chosen.size(), 1u);
  EXPECT_EQ(chosen[0].chosen, "m1");
  EXPECT_EQ(chosen[0].best, "m0");
  EXPECT_NEAR(chosen[0].given_away, 0.2, 1e-12);
}

TEST(Agreement, WorstDisagreementComesFirst) {
  std::vector<Cell> cells;
  for (int i = 0; i < 6; ++i)
    cells.push_back({.method = "m" + std::to_string(i),
                     .amount = "0.5",
                     .truth = {i * 0.1, i * 0.1},
                     .figure = {{"f", {i == 5 ? -1.0 : i * 1.0, i == 5 ? -1.0 : i * 1.0}}}});
  const auto worst = disagreements(cells, "f", 2);
  ASSERT_EQ(worst.size(), 2u);
  EXPECT_EQ(worst[0].method, "m5");
  EXPECT_LT(worst[0].rank_gap, 0);  // judged better than it is
}

}  // namespace
}  // namespace kvgrind::replay
