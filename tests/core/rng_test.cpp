#include "core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace kvgrind {
namespace {

TEST(Rng, PhiloxKnownAnswers) {
  using Four = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Four{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
            (Four{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Rng, UniformFillsItsRangeEvenly) {
  constexpr int n = 100000, bins = 50;
  std::vector<int> count(bins);
  double sum = 0, lag = 0, before = 0.5;
  for (int i = 0; i < n; ++i) {
    const float u = random_uniform({.seed = 3, .layer = 1, .head = 2, .name = "test"}, i);
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    ++count[static_cast<std::size_t>(u * bins)];
    sum += u;
    lag += (u - 0.5) * (before - 0.5);
    before = u;
  }
  EXPECT_NEAR(sum / n, 0.5, 4 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(lag / n, 0.0, 4 * (1.0 / 12) / std::sqrt(n));
  double chi2 = 0;
  for (const int c : count) chi2 += std::pow(c - n / bins, 2) / (n / bins);
  EXPECT_LT(chi2, 94.0);  // 49 degrees of freedom, 1 in 10⁴
  EXPECT_GT(chi2, 20.0);
}

TEST(Rng, NormalHasItsMoments) {
  constexpr int n = 100000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_normal({.seed = 5, .name = "normal"}, i);
    ASSERT_TRUE(std::isfinite(x));
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
  }
  EXPECT_NEAR(m1 / n, 0.0, 4 / std::sqrt(n));
  EXPECT_NEAR(m2 / n, 1.0, 4 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m3 / n, 0.0, 4 * std::sqrt(15.0 / n));
  EXPECT_NEAR(m4 / n, 3.0, 4 * std::sqrt(96.0 / n));
}

TEST(Rng, EveryPartOfTheKeyMatters) {
  const RandomKey base{.seed = 1, .sequence = 2, .layer = 3, .head = 4, .name = "a"};
  std::set<std::uint64_t> seen = {random_bits(base, 7)};
  EXPECT_EQ(random_bits(base, 7), *seen.begin());
  EXPECT_TRUE(seen.insert(random_bits(base, 8)).second);
  for (RandomKey key : {RandomKey{2, 2, 3, 4, "a"}, RandomKey{1, 3, 3, 4, "a"}, RandomKey{1, 2, 4, 4, "a"},
                        RandomKey{1, 2, 3, 5, "a"}, RandomKey{1, 2, 3, 4, "b"}, RandomKey{1, 2, 4, 3, "a"}})
    EXPECT_TRUE(seen.insert(random_bits(key, 7)).second) << key.name;
}

TEST(Rng, NoCollisionsOverAModel) {
  std::set<std::uint64_t> seen;
  for (std::int32_t layer = 0; layer < 8; ++layer)
    for (std::int32_t head = 0; head < 8; ++head)
      for (std::int64_t position = 0; position < 500; ++position)
        seen.insert(random_bits({.seed = 1, .layer = layer, .head = head, .name = "random"}, position));
  EXPECT_EQ(seen.size(), 8u * 8u * 500u);
}

}  // namespace
}  // namespace kvgrind
