// Worked examples of published methods, budgets: computed by hand from the formulas, on the fixture T8 and beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "sim/engine/apportion.h"
#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

TEST(D2O, RatiosOfTheOfficialBudget) {
  // Variances whose normalised mean is F: one head 0, one at the top, the third at 3 F − 1 of the way.
  const auto layer = [](double f) {
    std::map<std::string, double, std::less<>> out;
    for (int h = 0; h < 10; ++h) out["variance " + std::to_string(h)] = h < std::lround(10 * f) ? 1e6 : 0.0;
    return out;
  };
  const Given given{.figures = {layer(.2), layer(.4)}, .scores = {}};
  EXPECT_THAT(counts("density_shares(rounding=official)", 2, 1000000, 200000, given), ElementsAre(219933, 180066));
  const auto exact = counts("density_shares", 2, 1000000, 200000, given);
  EXPECT_EQ(exact[0] + exact[1], 400000);
  EXPECT_NEAR(static_cast<double>(exact[0]), 219934, 1);
}

TEST(Cake, PreferenceScoresAndAdjustment) {
  const sim::Columns flat = columns(attention(), "shifting_attention(window=2,pool=1)");
  EXPECT_NEAR(flat.figures.at("entropy"), 5.4715, 1e-3);
  EXPECT_NEAR(flat.figures.at("shift"), .02, 1e-5);
  EXPECT_THAT(
      front(columns(attention(), "shifting_attention(window=2,pool=1,reduce=none)", sim::Granularity::query_head).s, 6),
      Pointwise(FloatNear(1e-3f), {1.25f, .05f, .05f, 1.45f, .325f, .05f}));
  Given given;
  for (const double p : {8.0, 4.0, 2.0, 2.0}) given.figures.push_back({{"entropy", p}, {"shift", 1.0}});
  EXPECT_THAT(counts("preference(window=0,rounding=official)", 4, 6, 4, given), ElementsAre(6, 5, 3, 2));
  const auto exact = counts("preference(window=0)", 4, 6, 4, given);
  EXPECT_EQ(std::accumulate(exact.begin(), exact.end(), std::int64_t{0}), 16);
  EXPECT_EQ(exact[0], 6);
}

TEST(Allocators, OthersOfTheCatalogue) {
  EXPECT_THAT(counts("mass", 2, 4, 2, {.figures = {}, .scores = {{.7f, .1f, .1f, .1f}, {.25f, .25f, .25f, .25f}}}),
              ElementsAre(1, 3));
  EXPECT_THAT(counts("mass(p=0.75)", 1, 3, 1, {.figures = {}, .scores = {{.5f, .3f, .2f}}}), ElementsAre(2));
  const auto window = counts("layer_steps(layers=8,beta=14,rounding=official)", 32, 1 << 20, 2048);
  EXPECT_THAT((Positions{window[0], window[8], window[16], window[24]}), ElementsAre(2926, 2341, 1756, 1170));
  EXPECT_THAT(counts("recursions(n=3)", 3, 10, 1), ElementsAre(10, 6, 3));
  const auto third = counts("full_layers", 33, 100, 7);
  for (std::size_t l = 0; l < 33; ++l) EXPECT_EQ(third[l], l >= 11 && l < 22 ? 100 : 7) << l;
  EXPECT_THAT(counts("head_weights(of=[0.5,0.3,0.2],floor=0)", 3, 1000, 100), ElementsAre(150, 90, 60));
}

TEST(Apportion, ExactWithinBounds) {
  std::mt19937_64 rng(3);
  for (int trial = 0; trial < 300; ++trial) {
    const std::size_t n = 1 + rng() % 9;
    std::vector<double> weight(n);
    std::vector<std::int64_t> low(n), high(n);
    std::int64_t least = 0, most = 0;
    for (std::size_t i = 0; i < n; ++i) {
      weight[i] = rng() % 4 ? static_cast<double>(rng() % 1000) : 0.0;
      low[i] = static_cast<std::int64_t>(rng() % 5);
      high[i] = low[i] + static_cast<std::int64_t>(rng() % 40);
      least += low[i];
      most += high[i];
    }
    const std::int64_t total = static_cast<std::int64_t>(rng() % 200);
    const auto out = sim::apportion(weight, total, low, high);
    EXPECT_EQ(std::accumulate(out.begin(), out.end(), std::int64_t{0}), std::clamp(total, least, most));
    for (std::size_t i = 0; i < n; ++i) EXPECT_TRUE(out[i] >= low[i] && out[i] <= high[i]);
  }
}

TEST(AdaKv, CountsOfHeads) {
  const auto heads = [](const std::string& call, std::vector<std::vector<float>> scores, std::int64_t base) {
    const sim::BoundCall bound = sim::bind_call("budget", parse_call(call), call);
    std::vector<sim::BudgetGroup> groups;
    for (std::size_t g = 0; g < scores.size(); ++g)
      groups.push_back({0, static_cast<std::int64_t>(g), static_cast<std::int64_t>(scores[g].size()),
                        static_cast<std::int64_t>(scores[g].size()), base, static_cast<double>(base), scores[g], 0});
    const sim::RunFacts facts{.card = &attention().card()};
    const sim::Amount amount{sim::Amount::Kind::tokens, static_cast<double>(base)};
    sim::Memory memory;
    std::get<const sim::BudgetRow*>(bound.row)->allocate(
        {bound.params, facts, {}, attention(), amount, groups, memory});
    return Positions{groups[0].kept, groups[1].kept};
  };
  const std::vector<std::vector<float>> small{{.5f, .3f, .1f, .1f}, {.4f, .05f, .03f, .02f}};
  EXPECT_THAT(heads("cross_head(floor=0.2,rounding=official)", small, 2), ElementsAre(2, 1));
  EXPECT_THAT(heads("cross_head(floor=0.2)", small, 2), ElementsAre(3, 1));
  std::vector<std::vector<float>> long_heads(2);
  for (int i = 0; i < 20; ++i) {
    long_heads[0].push_back(1 - .01f * static_cast<float>(i));
    long_heads[1].push_back(.5f - .01f * static_cast<float>(i));
  }
  EXPECT_THAT(heads("cross_head(floor=0.2,rounding=official)", long_heads, 10), ElementsAre(18, 2));
}

}  // namespace
}  // namespace kvgrind::tests
