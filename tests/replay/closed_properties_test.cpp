// What must hold in the closed loop for every embedded preset and every schedule, whatever it keeps.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "core/error.h"
#include "replay/closed_loop/compression.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

using tests::closed_presets;
using tests::losses;
using tests::small_prompt;
using tests::tiny;

constexpr sim::Amount whole{sim::Amount::Kind::fraction, 1.0};
constexpr sim::Amount some{sim::Amount::Kind::fraction, 0.4};

// The preset as it does nothing at full budget; empty where its card says that there is no such setting, and why.
std::string without_effect(const sim::MethodCard& card) {
  const auto policy = sim::bind_policy(card.name);
  if (sim::count_class(*policy) != sim::CountClass::fixed) return card.name;
  const std::string identity = tests::text_of(card.data, "identity");
  if (!identity.empty()) return card.name + "(" + identity + ")";
  return {};
}

void expect_identity(const JobOutcome& outcome) {
  for (const QuestionOutcome& question : outcome.questions)
    for (const AnswerToken& token : question.tokens) {
      EXPECT_EQ(token.nll, token.nll_full);
      EXPECT_EQ(token.kl, 0.0);
      EXPECT_TRUE(token.same_top);
    }
}

TEST(ClosedProperties, FullBudgetIsBitwiseTheRunWithoutAPolicy) {
  const SuitePrompt prompt = small_prompt(136);
  std::vector<std::unique_ptr<ClosedPrompt>> closed;
  for (const Turns turns : {Turns::blind, Turns::aware, Turns::repeat, Turns::multi})
    closed.push_back(std::make_unique<ClosedPrompt>(tiny(), prompt, 0, ClosedOptions{.turns = turns}));
  int ran = 0, exempt = 0;
  for (const sim::MethodCard& card : sim::method_cards()) {
    SCOPED_TRACE(card.name);
    if (!tests::not_in_closed_loop(*sim::bind_policy(card.name)).empty()) continue;
    const std::string text = without_effect(card);
    if (text.empty()) {  // a fixed count without parameters that turn it off: the card must say why
      EXPECT_FALSE(tests::text_of(card.data, "full").empty());
      ++exempt;
      continue;
    }
    for (const auto& one : closed) {
      const JobOutcome outcome = one->run({sim::bind_policy(text), whole, 0});
      EXPECT_GT(outcome.slots_called, 0);
      expect_identity(outcome);
    }
    ++ran;
  }
  EXPECT_GE(ran, 20);
  EXPECT_LE(exempt, ran / 4);
}

// The schedules that no preset may use at the moment, with a score that needs little and one that needs much.
TEST(ClosedProperties, FullBudgetIsTheIdentityUnderEverySchedule) {
  const SuitePrompt prompt = small_prompt(136);
  for (const bool compressed : {false, true})
    for (const Turns turns : {Turns::blind, Turns::aware, Turns::multi}) {
      const ClosedPrompt closed(tiny(), prompt, 0,
                                {.turns = turns, .prefill_chunk = 64, .compressed_prefill = compressed});
      for (const char* schedule : {"prefill_end", "chunk(size=64)", "chunk(size=128)", "step", "every(n=3)", "segment",
                                   "segment(scope=new)", "each_layer", "never"})
        for (const char* score : {"key_norm", "window_attention(window=16)", "last_query"}) {
          const std::string line =
              std::string("score=") + score + " budget=uniform select=topk act=drop schedule=" + schedule + " read=all";
          SCOPED_TRACE(line + (compressed ? ", compressed prefill, " : ", ") + std::string(turns_name(turns)));
          expect_identity(closed.run({sim::bind_policy(line), whole, 0}));
        }
    }
}

// Prefill in chunks of 64 tokens' multiples shows every score the same, and ends in the same answers.
TEST(ClosedProperties, ChunkedPrefillIsWholePrefillForEveryPreset) {
  const SuitePrompt prompt = small_prompt(150, 1);
  const ClosedPrompt at_once(tiny(), prompt, 0, {.prefill_chunk = 512, .kl = false});
  const ClosedPrompt by_64(tiny(), prompt, 0, {.prefill_chunk = 64, .kl = false});
  const ClosedPrompt by_128(tiny(), prompt, 0, {.prefill_chunk = 128, .kl = false});
  for (const std::string& preset : closed_presets()) {
    SCOPED_TRACE(preset);
    const EvalJob job{sim::bind_policy(preset), some, 0};
    const auto expected = losses(at_once.run(job));
    EXPECT_EQ(losses(by_64.run(job)), expected);
    EXPECT_EQ(losses(by_128.run(job)), expected);
  }
}

// The line of a preset, deciding after every chunk of a prefill instead of at its end.
std::string by_chunks(const std::string& preset, const std::string& chunk) {
  std::string line = sim::canonical_line(*sim::bind_policy(preset));
  const std::string old = "schedule=prefill_end", wanted = "schedule=chunk(size=" + chunk + ")";
  const auto at = line.find(old);
  return at == std::string::npos ? std::string{} : line.replace(at, old.size(), wanted);
}

// A prefill that reads the compressed cache: the budget holds after every chunk, and keeping all changes nothing.
TEST(ClosedProperties, CompressedPrefillKeepsTheBudgetAtEveryChunk) {
  const SuitePrompt prompt = small_prompt(150, 1);
  const ClosedPrompt closed(tiny(), prompt, 0, {.prefill_chunk = 64, .compressed_prefill = true});
  const ClosedPrompt passing(tiny(), prompt, 0, {.prefill_chunk = 64});
  int ran = 0, read = 0;
  for (const std::string& preset : closed_presets()) {
    const std::string line = by_chunks(preset, "64");
    if (line.empty()) continue;
    SCOPED_TRACE(line);
    const auto policy = sim::bind_policy(line);
    if (sim::count_class(*sim::bind_policy(preset)) != sim::CountClass::exact) continue;
    std::map<std::int64_t, std::int64_t> firings;  // tokens seen by then → plans
    std::mutex mutex;
    std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> at;
    const auto watch = [&](const sim::GroupPlan& plan) {
      const std::lock_guard lock(mutex);
      std::int64_t& chunk = at[{plan.layer, plan.group}];
      const std::int64_t seen = std::min<std::int64_t>(150, ++chunk * 64);
      ++firings[seen];
      const auto kept = std::count(plan.keep.begin(), plan.keep.end(), std::uint8_t{1});
      EXPECT_EQ(kept, static_cast<std::int64_t>(0.4 * static_cast<double>(seen) + 1e-9));
      EXPECT_TRUE(seen == 64 || static_cast<std::int64_t>(plan.keep.size()) < seen);  // the chunks before were cut
    };
    JobOutcome outcome;
    try {
      outcome = closed.run_observed({policy, some, 0}, {.on_plan = watch, .first_tail = nullptr});
    } catch (const Error& error) {  // attention over tokens that are gone cannot be had
      EXPECT_NE(std::string(error.what()).find("column_sums"), std::string::npos) << error.what();
      continue;
    }
    EXPECT_EQ(firings.size(), 3u);  // 64, 128, 150
    expect_identity(closed.run({policy, whole, 0}));
    read += tests::largest_difference(losses(outcome), losses(passing.run({policy, some, 0}))) > 0;
    ++ran;
  }
  EXPECT_GE(ran, 8);
  EXPECT_GE(read, ran - 2);  // reading the compressed cache shows
}

}  // namespace
}  // namespace kvgrind::replay
