// Scores applied while decoding.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

SyntheticSource source_of(std::int64_t tokens) {
  std::mt19937_64 rng(121);
  return SyntheticSource(random_data(rng, {.tokens = tokens}));
}

// Slots after each of 30 steps behind a prompt of 40 tokens.
std::vector<std::int64_t> sizes(const std::string& policy, const char* amount) {
  const SyntheticSource source = source_of(70);
  std::vector<std::int64_t> out;
  for (std::int64_t steps = 0; steps <= 30; ++steps) {
    const EngineRun run =
        run_engine(policy, source, {.amount = sim::parse_amount(amount), .compress_at = 40, .steps = steps});
    out.push_back(run.cache.group(0, 0).size());
  }
  return out;
}

TEST(Decoding, EveryNTokensBackToTheTarget) {
  const std::vector<std::int64_t> size = sizes("decoding(n=8)", "25t");
  for (std::int64_t step = 0; step <= 30; ++step)
    EXPECT_EQ(size[static_cast<std::size_t>(step)], step < 8 ? 40 + step : 25 + step % 8) << step;
  for (std::int64_t step = 0; step <= 30; ++step)  // nothing to drop at or below the target
    EXPECT_EQ(sizes("decoding(n=8)", "100t")[static_cast<std::size_t>(step)], 40 + step);
}

TEST(Decoding, TheSetIsThatOfThePrefillScoreAtTheMoment) {
  const SyntheticSource source = source_of(70);
  const EngineRun later = run_engine("decoding(of=key_norm,n=30)", source,
                                     {.amount = sim::parse_amount("25t"), .compress_at = 40, .steps = 30});
  EXPECT_EQ(later.kept(1, 1), run_engine("knorm", source, {.amount = sim::parse_amount("25t")}).kept(1, 1));
}

TEST(PrefillDecoding, OneScoreThenTheOther) {
  const SyntheticSource source = source_of(70);
  const std::string policy = "prefill_decoding(prefill=key_diff,decode=key_norm,n=10,target=12)";
  EngineSetup setup{.amount = sim::parse_amount("0.5"), .compress_at = 40};
  EXPECT_EQ(run_engine(policy, source, setup).kept(0, 0),
            run_engine("keydiff(like=kvpress)", source, setup).kept(0, 0));
  const std::vector<std::int64_t> size = sizes(policy, "0.5");
  EXPECT_EQ(size[0], 20);
  EXPECT_EQ(size[9], 29);
  EXPECT_EQ(size[10], 12);
  EXPECT_EQ(size[29], 21);
  EXPECT_EQ(size[30], 12);
}

}  // namespace
}  // namespace kvgrind::tests
