// UNComp: classes of heads and stages of layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/sim/head_and_layer_fit.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

SyntheticSource source_of(std::int64_t layers, std::int64_t heads, std::int64_t tokens) {
  std::mt19937_64 rng(95);
  return SyntheticSource(random_data(rng, {.layers = layers, .query_heads = 4, .kv_heads = heads, .tokens = tokens}));
}

TEST(UnComp, PublishedCapacities) {
  const SyntheticSource source = source_of(1, 2, 900);
  const std::vector<float> head{.2f, .9f, .1f, .8f};
  const auto counts = [&](const char* amount) {
    return run_engine("uncomp(like=official)", source, head_and_layer_fit("uncomp", source.card(), head, {50}, amount))
        .requested;
  };
  EXPECT_THAT(counts("512t"), ElementsAre(384, 768, 384, 768));  // mean 576: an eighth above
  EXPECT_THAT(counts("86t"), ElementsAre(16, 112, 16, 112));
  const auto exact =
      run_engine("uncomp", source, head_and_layer_fit("uncomp", source.card(), {.2f, .3f, .9f, .8f}, {50}, "300t"));
  EXPECT_THAT(exact.requested, ElementsAre(200, 400));
}

TEST(UnComp, StagesEndWhereEntropyFalls) {
  const SyntheticSource source = source_of(4, 4, 400);
  const std::vector<float> head(16, .5f);
  const std::vector<float> profile{70, 72, 69, 68.5f};  // cut before layer 2 alone
  const auto layers = [&](const char* policy) {
    const auto counts =
        run_engine(policy, source, head_and_layer_fit("uncomp", source.card(), head, profile, "60t")).requested;
    std::vector<std::int64_t> out;
    for (std::size_t l = 0; l < 4; ++l)
      out.push_back(std::accumulate(counts.begin() + static_cast<std::ptrdiff_t>(4 * l),
                                    counts.begin() + static_cast<std::ptrdiff_t>(4 * l + 4), std::int64_t{0}));
    return out;
  };
  // The line 1.5, 1.167, .833, .5 by stages: 4/3, 4/3, 2/3, 2/3 of 240.
  EXPECT_THAT(layers("uncomp(stages=on)"), ElementsAre(320, 320, 160, 160));
  EXPECT_THAT(layers("uncomp"), ElementsAre(240, 240, 240, 240));
  EXPECT_THAT(layers("uncomp(stages=on,fall=10)"), ElementsAre(240, 240, 240, 240));  // one stage
}

TEST(UnComp, EachHeadItsOwnBest) {
  // T8, a cache for each query head: C = 4 gives head 0 (lower) 3 slots, head 1 (upper) 6; window scores s0, s1.
  const EngineRun run = run_engine("uncomp(window=2,pool=1,like=official)", attention(),
                                   head_and_layer_fit("uncomp", attention().card(), {0, 1}, {50}, "4t"));
  EXPECT_THAT(run.kept(0, 0), ElementsAre(3, 6, 7));
  EXPECT_THAT(run.kept(0, 1), ElementsAre(0, 1, 2, 3, 6, 7));
}

}  // namespace
}  // namespace kvgrind::tests
