// Filters that mix what is dropped into a few slots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replay/fit/mixing_filters.h"
#include "tests/replay/planted_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;

TEST(MixingFilters, SlopesAgainstDifferences) {
  std::mt19937_64 rng(141);
  std::normal_distribution<double> normal;
  const auto draw = [&](Eigen::Index rows, Eigen::Index columns) {
    Eigen::MatrixXd m(rows, columns);
    for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = normal(rng);
    return m;
  };
  MixingExample example{draw(9, 6), draw(9, 3), draw(9, 3), {1, 4}, draw(5, 3), draw(5, 4), draw(4, 3), draw(5, 3)};
  example.logit(2, 3) = -std::numeric_limits<double>::infinity();
  const MixingFilter filter{draw(2, 6), draw(1, 2), 0.4};
  MixingFilter slope{Eigen::MatrixXd::Zero(2, 6), Eigen::RowVectorXd::Zero(2), 0};
  mixing_loss(example, filter, &slope);
  constexpr double step = 1e-5;
  const auto difference = [&](auto&& change) {
    MixingFilter above = filter, below = filter;
    change(above, step);
    change(below, -step);
    return (mixing_loss(example, above, nullptr) - mixing_loss(example, below, nullptr)) / (2 * step);
  };
  for (Eigen::Index i = 0; i < 2; ++i) {
    for (Eigen::Index j = 0; j < 6; ++j)
      EXPECT_NEAR(slope.w(i, j), difference([&](MixingFilter& f, double by) { f.w(i, j) += by; }), 1e-6);
    EXPECT_NEAR(slope.b(i), difference([&](MixingFilter& f, double by) { f.b(i) += by; }), 1e-6);
  }
  EXPECT_NEAR(slope.nu, difference([&](MixingFilter& f, double by) { f.nu += by; }), 1e-6);
}

TEST(MixingFilters, LoseLessThanDroppingOnOtherPrompts) {
  FitRequest asked = fit_request("lococo");
  asked.vectors = 3;
  asked.epochs = 30;
  const Calibration fitted = fit(asked);
  EXPECT_LT(fitted.number("fitted_error", 9), 0.95);
  EXPECT_LT(fitted.number("held_out_error", 9), 1);
  EXPECT_EQ(fitted.tensor("w 0", {3, 21 * 16}).shape[0], 3);
  asked.vectors = 40;  // contexts of 60 tokens are too short
  EXPECT_THROW((void)fit(asked), std::exception);
}

}  // namespace
}  // namespace kvgrind::tests
