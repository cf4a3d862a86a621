// RazorAttention: classes of heads, and the token that stands for all that is dropped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

EngineSetup setup_of(const ModelCard& card, std::vector<float> induction, std::vector<float> echo) {
  Calibration fitted;
  fitted.method = "razor";
  fitted.model = calibration_model(card);
  fitted.tensors["induction"] = {{card.layers, card.kv_heads}, std::move(induction)};
  fitted.tensors["echo"] = {{card.layers, card.kv_heads}, std::move(echo)};
  EngineSetup setup;
  setup.calibration = std::make_shared<const Calibration>(fitted);
  return setup;
}

// Output of the query 0, whose logits are all 0 but for counts: read as the model reads.
double output_of_zero_query(const sim::CacheState& cache) {
  const sim::GroupView view = cache.read(0, 0);
  double sum = 0, weight = 0;
  for (std::int64_t j = 0; j < view.v.extent(0); ++j) {
    const double w = view.log_count ? std::exp(static_cast<double>(view.log_count[j])) : 1.0;
    sum += w * static_cast<double>(view.v(j, 0));
    weight += w;
  }
  return sum / weight;
}

TEST(Razor, TheMeanCountsAsManyAsItStandsFor) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 3, .rotary_dim = 0};
  std::mt19937_64 rng(71);
  SyntheticData data = random_data(rng, shape);
  data.v[0](0, 0) = 1;
  data.v[0](1, 0) = 3;
  data.v[0](2, 0) = 5;
  const SyntheticSource source(std::move(data));
  const EngineSetup setup = setup_of(source.card(), {0}, {0});
  const EngineRun paper = run_engine("razor(induction=0,echo=0,sinks=0,recent=1,part=0,like=paper)", source, setup);
  EXPECT_THAT(paper.kept(0, 0), ElementsAre(0, 2));
  EXPECT_NEAR(output_of_zero_query(paper.cache), 3.0, 1e-6);  // exact full attention
  const EngineRun official = run_engine("razor(induction=0,echo=0,sinks=0,recent=1)", source, setup);
  EXPECT_EQ(official.kept(0, 0), paper.kept(0, 0));
  EXPECT_NEAR(official.cache.group(0, 0).v[0], 2.0f, 1e-6f);
  EXPECT_NEAR(output_of_zero_query(official.cache), 3.5, 1e-6);
}

TEST(Razor, RankedOverAllLayers) {
  std::mt19937_64 rng(72);
  const SyntheticSource source(random_data(rng, {.layers = 4, .tokens = 40}));
  const EngineSetup setup = setup_of(source.card(), {.1f, .9f, .2f, .1f, .8f, .3f, .0f, .0f},  // two best: 1 and 4
                                     {0, 0, .5f, 0, 0, 0, .7f, 0});                            // two best: 6 and 2
  const auto whole = [&](const char* like) {
    const EngineRun run = run_engine(
        std::string("razor(induction=0.25,echo=0.25,sinks=2,recent=5,part=0,like=") + like + ")", source, setup);
    std::vector<std::int64_t> out;
    for (std::int64_t i = 0; i < 8; ++i) {
      if (run.kept(i / 2, i % 2).size() == 40)
        out.push_back(i);
      else
        EXPECT_THAT(run.kept(i / 2, i % 2), ElementsAre(0, 1, 2, 35, 36, 37, 38, 39)) << i;
    }
    return out;
  };
  EXPECT_THAT(whole("paper"), ElementsAre(1, 2, 4, 6));
  EXPECT_THAT(whole("official"), ElementsAre(1, 2, 4));  // of the echo heads the first layer's alone
}

TEST(Razor, WeightsAndCountsAreConserved) {
  std::mt19937_64 rng(73);
  const SyntheticSource source(random_data(rng, {.layers = 2, .tokens = 60}));
  const EngineRun run = run_engine("razor(induction=0,echo=0,sinks=3,recent=9,part=0.3,like=paper)", source, {});
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const sim::GroupSlots& slots = run.cache.group(layer, 0);
    ASSERT_EQ(slots.size(), 3 + 18 + 1);
    float count = 0;
    for (const float c : slots.count) count += c;
    EXPECT_EQ(count, 60.0f);
    EXPECT_EQ(slots.count[3], 39.0f);
    for (std::int64_t d = 0; d < slots.head_dim; ++d) {
      double mean = 0;
      for (std::int64_t t = 3; t < 42; ++t)
        mean += static_cast<double>(source.data().k[static_cast<std::size_t>(2 * layer)](t, d)) / 39;
      EXPECT_NEAR(slots.keys()(3, d), mean, 1e-4);
    }
  }
}

}  // namespace
}  // namespace kvgrind::tests
