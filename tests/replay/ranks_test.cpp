#include "replay/statistics/ranks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/for_all.h"

namespace kvgrind::replay {
namespace {

TEST(Ranks, TiesShareTheirMeanRank) {
  EXPECT_EQ(average_ranks(std::vector<double>{3, 1, 3, 2}), (std::vector<double>{3.5, 1, 3.5, 2}));
}

TEST(Ranks, SpearmanByHand) {
  // ranks x 1 2 3 4, y 1 3 2 4: 1 − 6·2/(4·15) = 0.8
  EXPECT_DOUBLE_EQ(spearman(std::vector<double>{1, 2, 3, 4}, std::vector<double>{10, 30, 20, 40}), 0.8);
  // one tie in x: ranks 1.5 1.5 3, y 1 2 3: cov 1.5, var 1.5 and 2 → 1.5/√3
  EXPECT_NEAR(spearman(std::vector<double>{5, 5, 9}, std::vector<double>{1, 2, 3}), 1.5 / std::sqrt(3.0), 1e-12);
  EXPECT_TRUE(std::isnan(spearman(std::vector<double>{1, 1}, std::vector<double>{1, 2})));
}

TEST(Ranks, KendallByHand) {
  // 6 pairs, 5 agree, 1 disagrees
  EXPECT_NEAR(kendall_tau_b(std::vector<double>{1, 2, 3, 4}, std::vector<double>{10, 30, 20, 40}), 4.0 / 6.0, 1e-12);
  // a tie in x: 2 agreeing pairs of √(2·3)
  EXPECT_NEAR(kendall_tau_b(std::vector<double>{5, 5, 9}, std::vector<double>{1, 2, 3}), 2 / std::sqrt(6.0), 1e-12);
}

TEST(Ranks, MonotoneTransformsChangeNothing) {
  tests::for_all(11, 30, [](std::mt19937_64& rng) {
    std::normal_distribution<double> normal;
    std::vector<double> x(20), y(20), z(20);
    for (std::size_t i = 0; i < 20; ++i) {
      x[i] = normal(rng);
      y[i] = x[i] + normal(rng);
      z[i] = std::exp(3 * y[i]);
    }
    EXPECT_DOUBLE_EQ(spearman(x, y), spearman(x, z));
    EXPECT_DOUBLE_EQ(kendall_tau_b(x, y), kendall_tau_b(x, z));
    EXPECT_NEAR(spearman(x, x), 1.0, 1e-12);
  });
}

TEST(Ranks, BootstrapDependsOnItsKeyAlone) {
  const auto a = bootstrap_indices(1, 7, 50);
  EXPECT_EQ(a, bootstrap_indices(1, 7, 50));
  EXPECT_NE(a, bootstrap_indices(1, 8, 50));
  for (const std::int64_t i : a) EXPECT_TRUE(i >= 0 && i < 50);
}

TEST(Ranks, QuantileInterpolates) {
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.0), 1.0);
}

}  // namespace
}  // namespace kvgrind::replay
