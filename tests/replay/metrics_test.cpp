// Tallies against the plainest loop, on random rows and slots.
#include "replay/metrics/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tests/support/for_all.h"

namespace kvgrind::replay {
namespace {

TEST(Tally, EqualsThePlainLoop) {
  tests::for_all(11, 400, [](std::mt19937_64& rng) {
    const std::int64_t tokens = 1 + static_cast<std::int64_t>(rng() % 200),
                       query = static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(tokens));
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    std::vector<float> reference(static_cast<std::size_t>(tokens), 0.0f);
    for (std::int64_t j = 0; j <= query; ++j) reference[static_cast<std::size_t>(j)] = uniform(rng);
    std::vector<std::int64_t> slot;
    for (std::int64_t j = 0; j < tokens; ++j)
      if (rng() % 3) slot.push_back(j);
    std::vector<std::int32_t> index;
    for (std::size_t i = 0; i < slot.size(); ++i)
      if (rng() % 4) index.push_back(static_cast<std::int32_t>(i));
    const bool indexed = rng() % 2;
    const auto slots = static_cast<std::int64_t>(indexed ? index.size() : slot.size());
    std::vector<float> row(static_cast<std::size_t>(slots));
    for (float& p : row) p = uniform(rng);
    const std::int64_t begin = static_cast<std::int64_t>(rng() % 5),
                       end = begin + static_cast<std::int64_t>(rng() % 150);
    std::vector<std::int32_t> top;
    for (std::int32_t j = 0; j <= query; j += 1 + static_cast<std::int32_t>(rng() % 9)) top.push_back(j);

    const RowTally tally =
        tally_row(tally_reference(reference, query, {begin, end}), {.reference = reference,
                                                                    .query = query,
                                                                    .context = {begin, end},
                                                                    .top = top,
                                                                    .slot = slot,
                                                                    .slot_index = indexed ? index.data() : nullptr,
                                                                    .slots = slots,
                                                                    .row = row});
    MassTally side[2];
    double mass = 0, kept = 0;
    std::int32_t hits = 0;
    for (std::int64_t j = 0; j <= query; ++j) {
      MassTally& s = side[query - j < 64 ? 0 : 1];
      const double a = static_cast<double>(reference[static_cast<std::size_t>(j)]);
      double other = 0;
      bool there = false;
      for (std::int64_t i = 0; i < slots; ++i)
        if (slot[static_cast<std::size_t>(indexed ? index[static_cast<std::size_t>(i)] : i)] == j) {
          there = true;
          other = static_cast<double>(row[static_cast<std::size_t>(i)]);
        }
      s.mass += a;
      mass += a;
      if (there) {
        s.kept += a;
        kept += a;
      }
      if (j >= begin && j < end) {
        s.lost += a * std::max(a - other, 0.0);
        s.strong += a * a;
      }
      if (there && std::find(top.begin(), top.end(), j) != top.end()) ++hits;
    }
    EXPECT_EQ(tally.mass, mass);
    EXPECT_EQ(tally.kept, kept);
    for (int far : {0, 1}) {
      const MassTally& found = far ? tally.far : tally.near;
      EXPECT_EQ(found.mass, side[far].mass);
      EXPECT_EQ(found.kept, side[far].kept);
      EXPECT_NEAR(found.lost, side[far].lost, 1e-12 * (1 + side[far].strong));
      EXPECT_EQ(found.strong, side[far].strong);
    }
    EXPECT_EQ(tally.top_kept, hits);
    EXPECT_EQ(tally.top, static_cast<std::int32_t>(top.size()));
  });
}

TEST(Tally, NothingLostIsExactlyNothing) {
  tests::for_all(12, 100, [](std::mt19937_64& rng) {
    const auto tokens = static_cast<std::size_t>(1 + rng() % 300);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    std::vector<float> row(tokens);
    std::vector<std::int64_t> slot(tokens);
    for (std::size_t j = 0; j < tokens; ++j) {
      row[j] = uniform(rng);
      slot[j] = static_cast<std::int64_t>(j);
    }
    const auto n = static_cast<std::int64_t>(tokens);
    const ContextKeys context{4, n - 1};
    const RowTally tally =
        tally_row(tally_reference(row, n - 1, context),
                  {.reference = row, .query = n - 1, .context = context, .slot = slot, .slots = n, .row = row});
    EXPECT_EQ(tally.kept, tally.mass);
    EXPECT_EQ(tally.near.lost, 0.0);
    EXPECT_EQ(tally.far.lost, 0.0);
    EXPECT_EQ(tally.near.kept, tally.near.mass);
    EXPECT_EQ(tally.far.kept, tally.far.mass);
  });
}

TEST(Figures, SmallByHand) {
  // One layer, one head, two queries.
  TallyTable table;
  table.rows = Array<RowTally, 3>({1, 1, 2});
  table.rows(0, 0, 0) = {
      .near = {1.0, 0.5, 0.2, 0.4}, .far = {0.0, 0.0, 0.0, 0.0}, .mass = 1.0, .kept = 0.5, .top_kept = 1, .top = 4};
  table.rows(0, 0, 1) = {
      .near = {0.25, 0.25, 0.0, 0.1}, .far = {0.75, 0.0, 0.3, 0.5}, .mass = 1.0, .kept = 0.25, .top_kept = 3, .top = 4};
  table.shift = Array<double, 2>({1, 2});
  table.residual = Array<double, 2>({1, 2});
  table.output = Array<double, 2>({1, 2});
  table.shift(0, 0) = 1.0, table.shift(0, 1) = 3.0;
  table.residual(0, 0) = 4.0, table.residual(0, 1) = 4.0;
  table.output(0, 0) = 2.0, table.output(0, 1) = 2.0;
  table.nll = {std::log(2.0), std::log(4.0)};
  std::vector<std::string> missing;
  const MetricMap m =
      figures(table, {{.name = "all", .rows = {0, 1}}, {.name = "answer", .rows = {1}, .complete = false}}, missing);
  EXPECT_TRUE(missing.empty());
  EXPECT_DOUBLE_EQ(m.at("recall.all").value, 0.375);
  EXPECT_DOUBLE_EQ(m.at("recall.all.near").value, 0.6);
  EXPECT_DOUBLE_EQ(m.at("recall.all.far").value, 0.0);
  EXPECT_DOUBLE_EQ(m.at("far_mass_frac.all").value, 0.375);
  EXPECT_DOUBLE_EQ(m.at("S.all").value, 0.5);
  EXPECT_DOUBLE_EQ(m.at("S.answer").value, 0.5);
  EXPECT_DOUBLE_EQ(m.at("S.answer.far").value, 0.6);
  EXPECT_DOUBLE_EQ(m.at("E.all").value, 0.5);
  EXPECT_DOUBLE_EQ(m.at("E.answer").value, 0.75);
  EXPECT_DOUBLE_EQ(m.at("D.all").value, 1.0);
  EXPECT_DOUBLE_EQ(m.at("output_error.all").value, 1.0);
  // p 1/2, shift 1/4, no far key; p 1/4, shift 3/4, 0.3 of 0.5 lost, which counts for a quarter of a look-up.
  const double first = 0.5 - 1 / (1 + std::exp(5.0)), second = 0.25 - 1 / (1 + 3 * std::exp(15 + 10 * 0.25 * 0.6));
  EXPECT_NEAR(m.at("predicted_dprob.all").value, (first + second) / 2, 1e-12);
  EXPECT_NEAR(m.at("predicted_dprob.answer").value, second, 1e-12);
  EXPECT_DOUBLE_EQ(m.at("top32_overlap.all").value, 0.5);
  EXPECT_EQ(m.at("S.answer").kind, "estimated");
  EXPECT_EQ(m.at("S.all").kind, "exact");
  EXPECT_EQ(m.at("S.all").n, 2);
  EXPECT_FALSE(m.contains("S.question"));
}

TEST(Figures, PredictedLossNeedsTheProbabilityOfTheNextToken) {
  TallyTable table;
  table.rows = Array<RowTally, 3>({1, 1, 2});
  for (const std::int64_t row : {0, 1})
    table.rows(0, 0, row) = {.near = {1.0, 1.0, 0.0, 0.4}, .far = {}, .mass = 1.0, .kept = 1.0};
  table.shift = table.residual = Array<double, 2>({1, 2});
  table.shift(0, 0) = 0.0, table.shift(0, 1) = 0.2;
  table.residual(0, 0) = table.residual(0, 1) = 1.0;
  const std::vector<MeasuredSet> sets{{.name = "all", .rows = {0, 1}}, {.name = "answer", .rows = {0}}};
  std::vector<std::string> missing;
  EXPECT_FALSE(figures(table, sets, missing).contains("predicted_dprob.all"));  // not recorded
  table.nll = {0.7, std::numeric_limits<double>::quiet_NaN()};
  const MetricMap some = figures(table, sets, missing);
  EXPECT_EQ(some.at("predicted_dprob.all").n, 1);
  EXPECT_EQ(some.at("predicted_dprob.all").kind, "estimated");
  EXPECT_EQ(some.at("predicted_dprob.answer").value, 0.0);  // nothing moved: exactly nothing
  EXPECT_EQ(some.at("predicted_dprob.answer").kind, "exact");
  table.shift(0, 0) = std::numeric_limits<double>::quiet_NaN();  // a damaged row is seen, not averaged away
  EXPECT_TRUE(std::isnan(figures(table, sets, missing).at("predicted_dprob.answer").value));
}

TEST(Figures, PredictedLossIsMonotoneAndBounded) {
  tests::for_all(13, 300, [](std::mt19937_64& rng) {
    std::uniform_real_distribution<double> uniform(0, 1);
    const double nll = 20 * uniform(rng) * uniform(rng), p = std::clamp(std::exp(-nll), 1e-4, 1 - 1e-4);
    const double shift = uniform(rng), lost = uniform(rng), strong = 4 * uniform(rng);
    const double fall = predicted_fall(shift, lost, strong), loss = predicted_loss(nll, fall);
    EXPECT_GE(loss, 0.0);
    EXPECT_LE(loss, p);
    EXPECT_GE(predicted_fall(shift + uniform(rng), lost, strong), fall);
    EXPECT_GE(predicted_fall(shift, lost + uniform(rng), strong), fall);
    EXPECT_GE(predicted_loss(nll, fall + uniform(rng)), loss);
    EXPECT_EQ(predicted_fall(0, 0, strong), 0.0);
    EXPECT_EQ(predicted_loss(nll, std::numeric_limits<double>::infinity()), p);
  });
}

}  // namespace
}  // namespace kvgrind::replay
