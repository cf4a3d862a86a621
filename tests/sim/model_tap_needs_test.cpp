// A tap that says what it reads changes nothing of what it reads, nor the logits; the rest need not be there.
#include <gtest/gtest.h>

#include "tests/sim/model_support.h"

namespace kvgrind::tests {
namespace {

class AskingTap final : public KeepingTap {
 public:
  AskingTap(const TapNeeds& needs, bool probabilities = false) : KeepingTap(3, probabilities), needs_(needs) {}
  TapNeeds needs(std::int64_t) const override { return needs_; }

 private:
  TapNeeds needs_;
};

constexpr std::int64_t none = TapNeeds::none;
const TapNeeds nothing{
    .q = none, .q_pre = none, .lse = none, .input = none, .attn_in = none, .attn_out = none, .output = none};

RandomModel random_model() {
  RandomModel random(3);
  random.config.qk_norm = random.config.qkv_bias = true;
  random.config.card.layer[1].window = 50;
  return random.fill();
}

Array<float, 2> run(const RandomModel& random, Tap* tap, std::vector<std::int64_t> logits_of, std::int64_t chunk) {
  const auto model = random.build();
  const auto ids = random_ids(200, random.config.card.vocab);
  const auto cache = sim::full_cache(random.config.card);
  return sim::prefill(*model, {.ids = ids, .cache = cache.get(), .tap = tap, .logits_of = std::move(logits_of)}, chunk);
}

TEST(ModelTapNeeds, WhatIsAskedIsWhole) {
  const RandomModel random = random_model();
  for (const std::int64_t chunk : {64, 512}) {
    KeepingTap whole(3, true);
    const Array<float, 2> logits = run(random, &whole, {5, 199, 5}, chunk);
    for (const bool probabilities : {false, true}) {
      TapNeeds needs = nothing;
      needs.q = needs.input = needs.attn_in = 0;
      AskingTap tap(needs, probabilities);
      EXPECT_EQ(largest_difference(flat(run(random, &tap, {5, 199, 5}, chunk)), flat(logits)), 0.0);
      EXPECT_TRUE(tap.final_residual.empty());
      EXPECT_TRUE(tap.at(2).attn_out.empty());
      EXPECT_TRUE(tap.at(0).lse.empty());
      for (std::int64_t l = 0; l < 3; ++l) {
        EXPECT_EQ(tap.at(l).q, whole.at(l).q);
        EXPECT_EQ(tap.at(l).k, whole.at(l).k);
        EXPECT_EQ(tap.at(l).v, whole.at(l).v);
        EXPECT_EQ(tap.at(l).input, whole.at(l).input);
        EXPECT_EQ(tap.at(l).attn_in, whole.at(l).attn_in);
        EXPECT_TRUE(tap.at(l).q_pre.empty());
        if (probabilities) {
          EXPECT_EQ(tap.at(l).column_sum, whole.at(l).column_sum);
        }
      }
    }
  }
}

// Rows from a position on: everything of the passes that reach it, and whole passes before may lack it.
TEST(ModelTapNeeds, RowsFromAPositionOn) {
  const RandomModel random = random_model();
  KeepingTap whole(3);
  const Array<float, 2> logits = run(random, &whole, {199}, 64);
  TapNeeds needs = nothing;
  needs.attn_out = needs.lse = needs.output = 150;
  AskingTap tap(needs);
  EXPECT_EQ(largest_difference(flat(run(random, &tap, {199}, 64)), flat(logits)), 0.0);
  const auto tail = [](const std::vector<float>& all, std::int64_t width) {
    return std::vector<float>(all.end() - 50 * width, all.end());
  };
  const ModelCard& card = random.config.card;
  for (std::int64_t l = 0; l < 3; ++l) {
    EXPECT_EQ(tail(tap.at(l).attn_out, card.hidden), tail(whole.at(l).attn_out, card.hidden));
    EXPECT_EQ(tail(tap.at(l).lse, card.query_heads), tail(whole.at(l).lse, card.query_heads));
  }
  EXPECT_EQ(tail(tap.final_residual, card.hidden), tail(whole.final_residual, card.hidden));
  EXPECT_LT(tap.final_residual.size(), whole.final_residual.size());
}

TEST(ModelTapNeeds, TwoTapsInOneCall) {
  const RandomModel random = random_model();
  const auto model = random.build();
  const auto ids = random_ids(90, random.config.card.vocab);
  KeepingTap alone(3), with_other(3);
  whole_pass(*model, ids, &alone);
  AskingTap asks_nothing(nothing);
  const auto a = sim::full_cache(random.config.card), b = sim::full_cache(random.config.card);
  const sim::Feed feeds[] = {{.ids = ids, .cache = a.get(), .tap = &asks_nothing, .logits_of = {3}},
                             {.ids = ids, .cache = b.get(), .tap = &with_other}};
  sim::forward(*model, feeds);
  EXPECT_EQ(with_other.final_residual, alone.final_residual);
  EXPECT_EQ(with_other.at(2).attn_out, alone.at(2).attn_out);
  EXPECT_EQ(with_other.at(2).lse, alone.at(2).lse);
}

}  // namespace
}  // namespace kvgrind::tests
