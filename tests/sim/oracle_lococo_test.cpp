// LoCoCo: what the mixing leaves alone, and what it mixes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

constexpr std::int64_t tokens = 60, slots = 3, width = 5;

SyntheticSource make_source() {
  std::mt19937_64 rng(131);
  return SyntheticSource(random_data(rng, {.layers = 1, .query_heads = 2, .kv_heads = 1, .tokens = tokens}));
}

EngineSetup setup_of(const ModelCard& card, float nu, float filter) {
  Calibration fitted;
  fitted.method = "lococo";
  fitted.model = calibration_model(card);
  const std::int64_t columns = width * 2 * card.head_dim;
  fitted.tensors["w 0"] = {{slots, columns}, std::vector<float>(static_cast<std::size_t>(slots * columns), filter)};
  fitted.tensors["b 0"] = {{slots}, {0, 0, 0}};
  fitted.tensors["nu 0"] = {{1}, {nu}};
  EngineSetup setup{.amount = sim::parse_amount("12t")};
  setup.calibration = std::make_shared<const Calibration>(fitted);
  return setup;
}

TEST(LoCoCo, WithoutMixingItIsHeavyHitters) {
  const SyntheticSource source = make_source();
  const EngineRun run = run_engine("lococo", source, setup_of(source.card(), 0, .3f));
  const EngineRun plain = run_engine("score=column_sum budget=uniform select=topk act=drop schedule=prefill_end",
                                     source, {.amount = sim::parse_amount("12t")});
  EXPECT_EQ(run.kept(0, 0), plain.kept(0, 0));
  EXPECT_EQ(run.cache.group(0, 0).k, plain.cache.group(0, 0).k);
  EXPECT_EQ(run.cache.group(0, 0).v, plain.cache.group(0, 0).v);
}

TEST(LoCoCo, ZeroFiltersGiveTheMeanOfTheOthers) {
  const SyntheticSource source = make_source();
  const EngineRun run = run_engine("lococo", source, setup_of(source.card(), 1, 0));
  const sim::GroupSlots& kept = run.cache.group(0, 0);
  const Array<float, 2>&k = source.data().k[0], &v = source.data().v[0];
  std::vector<std::size_t> mixed;
  float count = 0;
  for (std::size_t j = 0; j < kept.position.size(); ++j) {
    count += kept.count[j];
    if (kept.k_state[j].content == sim::Content::merged) mixed.push_back(j);
  }
  ASSERT_EQ(mixed.size(), static_cast<std::size_t>(slots));
  EXPECT_NEAR(count, tokens, 1e-3);  // every token counts once
  // The others: all that was dropped, and the mixed slots themselves.
  std::vector<std::int64_t> others;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto at = std::lower_bound(kept.position.begin(), kept.position.end(), t);
    const bool there = at != kept.position.end() && *at == t;
    if (!there || kept.k_state[static_cast<std::size_t>(at - kept.position.begin())].content == sim::Content::merged)
      others.push_back(t);
  }
  EXPECT_EQ(others.size(), static_cast<std::size_t>(tokens - 12 + slots));
  for (const std::size_t slot : mixed)
    for (std::int64_t d = 0; d < 8; ++d) {
      double mean_k = 0, mean_v = 0;
      for (const std::int64_t t : others) {
        mean_k += static_cast<double>(k(t, d)) / static_cast<double>(others.size());
        mean_v += static_cast<double>(v(t, d)) / static_cast<double>(others.size());
      }
      EXPECT_NEAR(kept.keys()(static_cast<std::int64_t>(slot), d), mean_k, 1e-4);
      EXPECT_NEAR(kept.values()(static_cast<std::int64_t>(slot), d), mean_v, 1e-4);
    }
}

TEST(LoCoCo, NeighboursWeighAsAConvolutionDoes) {
  // One filter that reads channel 0 of the next token's value: plain loop beside it.
  const SyntheticSource source = make_source();
  EngineSetup setup = setup_of(source.card(), 1, 0);
  Calibration fitted = *setup.calibration;
  const std::int64_t dim = source.card().head_dim;
  for (std::int64_t c = 0; c < slots; ++c)
    fitted.tensors["w 0"].values[static_cast<std::size_t>(c * width * 2 * dim + 3 * 2 * dim + dim)] = 1;
  setup.calibration = std::make_shared<const Calibration>(fitted);
  const EngineRun run = run_engine("lococo(keep=0.75)", source, setup),
                  zero = run_engine("lococo(keep=0.75)", source, setup_of(source.card(), 1, 0));
  const sim::GroupSlots& kept = run.cache.group(0, 0);
  std::vector<std::int64_t> others;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto at = std::lower_bound(kept.position.begin(), kept.position.end(), t);
    if (at == kept.position.end() || *at != t ||
        kept.k_state[static_cast<std::size_t>(at - kept.position.begin())].content == sim::Content::merged)
      others.push_back(t);
  }
  const Array<float, 2>& v = source.data().v[0];
  double sum = 0, mixed = 0;
  for (std::size_t j = 0; j < others.size(); ++j) {
    const double next = j + 1 < others.size() ? static_cast<double>(v(others[j + 1], 0)) : 0.0;
    const double e = std::exp(std::max(0.0, next));
    sum += e;
    mixed += e * static_cast<double>(v(others[j], 1));
  }
  int slots_seen = 0;
  for (std::int64_t j = 0; j < kept.size(); ++j)
    if (kept.k_state[static_cast<std::size_t>(j)].content == sim::Content::merged) {
      EXPECT_NEAR(kept.values()(j, 1), mixed / sum, 1e-4);
      ++slots_seen;
    }
  EXPECT_EQ(slots_seen, 3);
  EXPECT_NE(run.cache.group(0, 0).v, zero.cache.group(0, 0).v);
}

}  // namespace
}  // namespace kvgrind::tests
