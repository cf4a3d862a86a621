// Sampling and likelihoods against their definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "sim/model/runtime.h"

namespace kvgrind::tests {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

std::map<std::int32_t, int> draw(std::vector<float> logits, const sim::Sampling& sampling, int n) {
  std::map<std::int32_t, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sim::sample(logits, sampling, 0, i)];
  return counts;
}

TEST(Sampling, GreedyTakesTheLowestIdOfTies) {
  const auto greedy = [](std::vector<float> logits) { return sim::sample(logits, {}, 0, 0); };
  EXPECT_EQ(greedy({1, 3, 2, 3}), 1);
  EXPECT_EQ(greedy({5, 5, 5}), 0);
  EXPECT_EQ(greedy({nan, 1, 2, nan}), 2);
  EXPECT_EQ(greedy({nan, nan}), 0);
  EXPECT_EQ(greedy({-infinity, -infinity, -3}), 2);
}

// 20 000 draws: each share within five standard deviations of its probability.
TEST(Sampling, SharesFollowTheProbabilities) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -infinity, 2.5f, nan};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    std::map<std::int32_t, double> p;
    double sum = 0.0;
    for (const std::int32_t id : {0, 1, 2, 4})
      sum += p[id] = std::exp(logits[static_cast<std::size_t>(id)] / temperature);
    const int n = 20000;
    const auto counts = draw(logits, {.temperature = temperature, .seed = 9}, n);
    EXPECT_EQ(counts.count(3) + counts.count(5), 0u);
    for (const auto& [id, weight] : p) {
      const double share = weight / sum, deviation = std::sqrt(share * (1 - share) / n);
      EXPECT_NEAR(counts.at(id) / static_cast<double>(n), share, 5 * deviation) << "id " << id;
    }
  }
}

TEST(Sampling, TopKAndTopPCut) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  const auto ids = [&](const sim::Sampling& sampling) {
    std::vector<std::int32_t> out;
    for (const auto& [id, count] : draw(logits, sampling, 3000)) out.push_back(id);
    return out;
  };
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(ids({.temperature = 1.0f}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(ids({.temperature = 1.0f, .top_k = 2}), (Ids{1, 3}));
  EXPECT_EQ(ids({.temperature = 1.0f, .top_p = 0.65f}), (Ids{1, 3}));
  EXPECT_EQ(ids({.temperature = 1.0f, .top_p = 0.75f}), (Ids{1, 2, 3}));
  EXPECT_EQ(ids({.temperature = 1.0f, .top_p = 0.0f}), (Ids{1}));
  EXPECT_EQ(ids({.temperature = 1.0f, .top_p = 0.75f, .top_k = 1}), (Ids{1}));
  // Ties at the cut: the lower id stays.
  EXPECT_EQ(draw({1, 1, 1}, {.temperature = 1.0f, .top_k = 1}, 50).begin()->first, 0);
}

TEST(Sampling, DependsOnSeedSequenceAndPositionAlone) {
  const std::vector<float> logits(50, 0.0f);
  const auto run = [&](std::uint64_t seed, std::int64_t sequence) {
    std::vector<std::int32_t> ids(30);
    for (std::size_t i = ids.size(); i-- > 0;)  // order of calls must not matter
      ids[i] = sim::sample(logits, {.temperature = 1.0f, .seed = seed}, sequence, static_cast<std::int64_t>(i));
    return ids;
  };
  const auto ids = run(1, 2);
  for (std::size_t i = 0; i < ids.size(); ++i)
    EXPECT_EQ(ids[i], sim::sample(logits, {.temperature = 1.0f, .seed = 1}, 2, static_cast<std::int64_t>(i)));
  EXPECT_NE(ids, run(2, 2));
  EXPECT_NE(ids, run(1, 3));
}

TEST(Sampling, InfiniteLogitsAreCertain) {
  EXPECT_EQ(sim::sample(std::vector<float>{1, infinity, 2}, {.temperature = 1.0f}, 0, 0), 1);
  EXPECT_EQ(sim::sample(std::vector<float>{-infinity, nan}, {.temperature = 1.0f}, 0, 0), 0);
}

TEST(NegativeLogProbability, IsExact) {
  EXPECT_DOUBLE_EQ(sim::negative_log_probability(std::vector<float>{0, 0, 0, 0}, 2), std::log(4.0));
  EXPECT_NEAR(sim::negative_log_probability(std::vector<float>{1000, 990}, 1), 10.0 + std::log1p(std::exp(-10.0)),
              1e-12);
  EXPECT_TRUE(std::isnan(sim::negative_log_probability(std::vector<float>{0, nan}, 0)));
  EXPECT_EQ(sim::negative_log_probability(std::vector<float>{0, -infinity}, 1),
            std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace kvgrind::tests
