// LookaheadKV: with the very queries that come, the choice is the oracle's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/rope/rope.h"
#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

TEST(LookaheadKv, KnowingTheQueriesIsTheOracle) {
  std::mt19937_64 rng(101);
  const SyntheticSource source(random_data(rng, {.tokens = 64}));
  const ModelCard& card = source.card();
  constexpr std::int64_t moment = 60, n = 4;
  Calibration fitted;
  fitted.method = "lookaheadkv";
  fitted.model = calibration_model(card);
  CalibrationTensor& table = fitted.tensors["query"];
  table.shape = {card.layers, card.query_heads, n, card.head_dim};
  const std::vector<std::int64_t> position{60, 61, 62, 63};
  for (std::int64_t l = 0; l < card.layers; ++l)
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      Array<float, 2> q = source.queries(l, h, moment, n);
      kernels::rope_undo(card.rope[0], position, View<float, 3>(q.data(), {n, 1, card.head_dim}));
      table.values.insert(table.values.end(), q.data(), q.data() + q.size());
    }
  EngineSetup setup{.compress_at = moment, .calibration = std::make_shared<const Calibration>(fitted)};
  // Mean of softmax over the context alone, by a plain loop.
  for (const char* amount : {"1t", "7t", "30t", "59t"}) {
    setup.amount = sim::parse_amount(amount);
    const EngineRun run = run_engine("lookaheadkv-m(pool=1)", source, setup);
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t g = 0; g < card.kv_heads; ++g) {
        std::vector<std::pair<double, std::int64_t>> score;
        for (std::int64_t j = 0; j < moment; ++j) score.emplace_back(0.0, j);
        for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h)
          for (std::int64_t i = moment; i < moment + n; ++i) {
            const Array<float, 2>& p = source.probabilities(l, h);
            double sum = 0;
            for (std::int64_t j = 0; j < moment; ++j) sum += static_cast<double>(p(i, j));
            for (std::int64_t j = 0; j < moment; ++j)
              score[static_cast<std::size_t>(j)].first -= static_cast<double>(p(i, j)) / sum;
          }
        std::sort(score.begin(), score.end());
        std::vector<std::int64_t> want;
        for (std::size_t i = 0; i < static_cast<std::size_t>(setup.amount.value); ++i) want.push_back(score[i].second);
        std::sort(want.begin(), want.end());
        EXPECT_EQ(run.kept(l, g), want) << amount;
      }
  }
  // One query alone: normalising over the context changes no order, and the oracle chooses the same.
  std::mt19937_64 again(101);
  SyntheticData one = random_data(again, {.query_heads = 2, .kv_heads = 2, .tokens = 61});
  const SyntheticSource alone(std::move(one));
  table.values.clear();
  table.shape = {2, 2, 1, card.head_dim};
  for (std::int64_t l = 0; l < 2; ++l)
    for (std::int64_t h = 0; h < 2; ++h) {
      Array<float, 2> q = alone.queries(l, h, moment, 1);
      kernels::rope_undo(card.rope[0], std::vector<std::int64_t>{moment},
                         View<float, 3>(q.data(), {1, 1, card.head_dim}));
      table.values.insert(table.values.end(), q.data(), q.data() + q.size());
    }
  fitted.model = calibration_model(alone.card());
  setup.calibration = std::make_shared<const Calibration>(fitted);
  setup.amount = sim::parse_amount("9t");
  for (std::int64_t l = 0; l < 2; ++l)
    for (std::int64_t h = 0; h < 2; ++h)
      EXPECT_EQ(run_engine("lookaheadkv-m(pool=1)", alone, setup).kept(l, h),
                run_engine("oracle", alone, setup).kept(l, h));
}

}  // namespace
}  // namespace kvgrind::tests
