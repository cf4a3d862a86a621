// CompressionRatioDecoding: while decoding, a fraction of the tokens seen so far stays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

TEST(CompressionRatioDecoding, AFractionOfTheTokensSeen) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 1000, .rotary_dim = 0};
  std::mt19937_64 rng(151);
  const SyntheticSource source(random_data(rng, shape));
  EngineSetup setup{.amount = {sim::Amount::Kind::removed, 0.9}, .compress_at = 980};
  const auto size = [&](std::int64_t steps) {
    setup.steps = steps;
    return run_engine("compression_ratio_decoding(n=10)", source, setup).cache.group(0, 0).size();
  };
  EXPECT_EQ(size(9), 989);  // the prompt stays whole until n tokens have come
  EXPECT_EQ(size(10), 98);  // int(990 · (1 − 0.9)) in binary64
  EXPECT_EQ(size(20), 99);  // of 1000, not 100
  setup.amount = sim::parse_amount("0.1");
  EXPECT_EQ(size(20), 100);  // ours
}

}  // namespace
}  // namespace kvgrind::tests
