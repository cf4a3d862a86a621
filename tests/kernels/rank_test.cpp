#include "kernels/rank/rank.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/kernel_check.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using kernels::rank_order;
using kernels::top_k;

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan = std::numeric_limits<float>::quiet_NaN();

TEST(Rank, TiesByIndexNanLastAndCounted) {
  const std::vector<float> score = {1.0f, nan, 2.0f, -0.0f, 2.0f, 0.0f, -nan, -infinity, infinity};
  std::int64_t nans = -1;
  EXPECT_EQ(rank_order(score, &nans), (std::vector<std::int32_t>{8, 2, 4, 0, 3, 5, 7, 1, 6}));
  EXPECT_EQ(nans, 2);
  nans = -1;
  EXPECT_EQ(top_k(score, 3, &nans), (std::vector<std::int32_t>{2, 4, 8}));
  EXPECT_EQ(nans, 2);
  EXPECT_EQ(top_k(score, 5), (std::vector<std::int32_t>{0, 2, 3, 4, 8}));
  EXPECT_EQ(top_k(score, 8), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 7, 8}));
}

TEST(Rank, KIsClamped) {
  const std::vector<float> score = {1, 2, 3};
  EXPECT_TRUE(top_k(score, -4).empty());
  EXPECT_TRUE(top_k(score, 0).empty());
  EXPECT_EQ(top_k(score, 99).size(), 3u);
  EXPECT_TRUE(top_k({}, 5).empty());
  EXPECT_TRUE(rank_order({}).empty());
}

// Scores with many ties, specials and both signs.
std::vector<float> scores(std::mt19937_64& rng, std::int64_t n) {
  std::vector<float> score = random_values(rng, n);
  const auto kind = rng() % 4;
  for (float& value : score) {
    if (kind == 0) value = static_cast<float>(static_cast<std::int64_t>(rng() % 7) - 3);
    if (kind == 1 && rng() % 9 == 0) value = rng() % 2 ? nan : rng() % 2 ? infinity : -infinity;
    if (kind == 2) value = std::abs(value) * 1e-40f;  // subnormal
  }
  return score;
}

TEST(Rank, EqualsComparisonSort) {
  for_all(51, 60, [](std::mt19937_64& rng) {
    for (const std::int64_t n : {1, 2, 17, 81, 511, 512, 987, 5000}) {
      const std::vector<float> score = scores(rng, n);
      const std::vector<std::int32_t> expected = kernels::rank_order_ref(score);
      ASSERT_EQ(rank_order(score), expected) << n;
      for (const std::int64_t k : {std::int64_t{1}, n / 3, n - 1, n}) {
        ASSERT_EQ(top_k(score, k), kernels::top_k_ref(score, k)) << n << " " << k;
      }
    }
  });
}

TEST(Rank, AMillionScores) {
  std::mt19937_64 rng(base_seed(52));
  std::vector<float> score = random_values(rng, 1000000);
  for (std::size_t i = 0; i < score.size(); i += 3) score[i] = score[i / 2];
  EXPECT_EQ(rank_order(score), kernels::rank_order_ref(score));
  EXPECT_EQ(top_k(score, 200001), kernels::top_k_ref(score, 200001));
}

TEST(Rank, LargerKKeepsWhatSmallerKept) {
  for_all(53, 20, [](std::mt19937_64& rng) {
    const std::vector<float> score = scores(rng, 300);
    std::vector<std::int32_t> before;
    for (std::int64_t k = 0; k <= 300; k += 13) {
      const std::vector<std::int32_t> kept = top_k(score, k);
      ASSERT_EQ(static_cast<std::int64_t>(kept.size()), k);
      ASSERT_TRUE(std::is_sorted(kept.begin(), kept.end()));
      ASSERT_TRUE(std::includes(kept.begin(), kept.end(), before.begin(), before.end()));
      before = kept;
    }
  });
}

}  // namespace
}  // namespace kvgrind::tests
