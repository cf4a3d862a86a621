// What must hold in the closed loop for every embedded preset and every schedule, whatever it keeps.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "core/error.h"
#include "core/parallel.h"
#include "replay/closed_loop/compression.h"
#include "tests/replay/closed_support.h"
#include "tests/replay/turned_off.h"

namespace kvgrind::replay {
namespace {

using tests::closed_policy;
using tests::closed_presets;
using tests::losses;
using tests::schedules;
using tests::small_prompt;
using tests::tiny;
using tests::turned_off;

constexpr sim::Amount whole{sim::Amount::Kind::fraction, 1.0};
constexpr sim::Amount some{sim::Amount::Kind::fraction, 0.4};

// The presets that no closed loop can run: they are shown queries that come after the moment.
TEST(ClosedProperties, RunEveryPresetButThoseThatKnowTheFuture) {
  const std::map<std::string, std::string> left_out = {
      {"lookahead_qcache-m",
       "its queries are those of a draft of the answer, which the open loop takes from the trace"},
      {"oracle", "bounds what a policy could know; it is told the question's and answer's queries"}};
  for (const std::string& name : sim::preset_names())
    EXPECT_EQ(tests::in_closed_loop(name), !left_out.contains(name)) << name;
  EXPECT_EQ(closed_presets().size() + left_out.size(), sim::preset_names().size());
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
  for (const sim::MethodCard& card : sim::method_cards()) {
    SCOPED_TRACE(card.name);
    if (!tests::in_closed_loop(card.name)) continue;
    const std::string text = turned_off(card);
    if (card.name != "full" && sim::count_class(*sim::bind_policy(card.name)) == sim::CountClass::fixed) {
      ASSERT_NE(text, card.name) << "the card tells no parameters that turn it off";
    }
    for (const auto& one : closed) {
      const JobOutcome outcome = one->run({closed_policy(text), whole, 0});
      if (card.name != "full") {  // which never decides
        EXPECT_GT(outcome.slots_called, 0);
      }
      expect_identity(outcome);
    }
  }
}

std::string with_schedule(std::string line, const std::string& schedule) {
  const auto at = line.find(" schedule="), end = line.find(" read=");
  return line.replace(at, end - at, " schedule=" + schedule);
}

// Every preset under every schedule, its own among them. One pair is refused: EpiCache's budget weighs each layer by a
// number of its own, and while layers are still coming it sees only those that are done.
TEST(ClosedProperties, FullBudgetIsTheIdentityOfEveryPresetUnderEverySchedule) {
  const ClosedPrompt closed(tiny(), small_prompt(72, 1), 0, {});
  std::vector<std::string> lines;
  for (const sim::MethodCard& card : sim::method_cards())
    if (tests::in_closed_loop(card.name))
      for (const char* schedule : schedules)
        lines.push_back(with_schedule(sim::canonical_line(*sim::bind_policy(turned_off(card))), schedule));
  parallel_for(static_cast<std::int64_t>(lines.size()), [&](std::int64_t i) {
    const std::string& line = lines[static_cast<std::size_t>(i)];
    SCOPED_TRACE(line);
    try {
      expect_identity(closed.run({closed_policy(line), whole, 0}));
    } catch (const Error& error) {
      EXPECT_TRUE(line.find("budget=layer_power") != std::string::npos && line.find("each_layer") != std::string::npos)
          << error.what();
    }
  });
}

// Under every protocol and with prefill that reads the policy's cache, for scores that need little and much.
TEST(ClosedProperties, FullBudgetIsTheIdentityUnderEverySchedule) {
  const SuitePrompt prompt = small_prompt(136);
  for (const bool compressed : {false, true})
    for (const Turns turns : {Turns::blind, Turns::aware, Turns::multi}) {
      const ClosedPrompt closed(tiny(), prompt, 0,
                                {.turns = turns, .prefill_chunk = 64, .compressed_prefill = compressed});
      for (const char* schedule : schedules)
        for (const char* score : {"key_norm", "window_attention(window=16)", "last_query"}) {
          const std::string line = tests::line_of(score, schedule);
          SCOPED_TRACE(line + (compressed ? ", compressed prefill, " : ", ") + std::string(turns_name(turns)));
          expect_identity(closed.run({sim::bind_policy(line), whole, 0}));
        }
    }
}

// Prefill in chunks of 64 tokens' multiples shows every score the same, and ends in the same answers.
TEST(ClosedProperties, ChunkedPrefillIsWholePrefillForEveryPresetAndSchedule) {
  const SuitePrompt prompt = small_prompt(150, 1);
  const ClosedPrompt at_once(tiny(), prompt, 0, {.prefill_chunk = 512, .kl = false});
  const ClosedPrompt by_64(tiny(), prompt, 0, {.prefill_chunk = 64, .kl = false});
  const ClosedPrompt by_128(tiny(), prompt, 0, {.prefill_chunk = 128, .kl = false});
  std::vector<std::string> policies = closed_presets();
  for (const char* schedule : schedules)
    for (const char* score : {"key_norm", "window_attention(window=16)", "last_query"})
      policies.push_back(tests::line_of(score, schedule));
  for (const std::string& text : policies) {
    SCOPED_TRACE(text);
    const EvalJob job{closed_policy(text), some, 0};
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
    const auto policy = closed_policy(line);
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
