#include "replay/closed_loop/closed_loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "replay/eval/eval.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {
namespace {

std::shared_ptr<const sim::Model> tiny_model() {
  static const std::shared_ptr<const sim::Model> model = [] {
    const traces::ModelFolder folder = traces::read_model_folder(KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m");
    return sim::build_model(folder.config, folder.weights);
  }();
  return model;
}

const std::string golden_path = KVGRIND_SOURCE_DIR "/tests/golden/closed_loop_tiny-3m.json";

const Suite& golden_suite() {
  static const Suite suite = read_suite(golden_path, 4096);
  return suite;
}

// Full budget: the normal path runs and the outcome is bitwise the run without a policy.
TEST(ClosedLoop, FullBudgetIsTheIdentityForEveryPreset) {
  SuitePrompt prompt = golden_suite().prompts[0];
  prompt.context.resize(192);
  prompt.spans.clear();
  prompt.questions.resize(2);
  for (SuiteQuestion& question : prompt.questions) question.evidence.reset();
  for (const Turns turns : {Turns::blind, Turns::aware, Turns::repeat, Turns::multi}) {
    const ClosedPrompt closed(tiny_model(), prompt, 0, {.turns = turns});
    for (const std::string& preset : sim::preset_names()) {
      const sim::PolicyPtr policy = sim::bind_policy(preset);
      const auto signals = sim::needed_signals(*policy);
      if (std::find(signals.begin(), signals.end(), sim::Signal::future_queries) != signals.end()) continue;
      if (sim::count_class(*policy) != sim::CountClass::exact) continue;  // its card says what full means
      SCOPED_TRACE(preset + " " + std::string(turns_name(turns)));
      const JobOutcome outcome = closed.run({policy, {sim::Amount::Kind::fraction, 1.0}, 0});
      EXPECT_GT(outcome.slots_called, 0);
      for (const QuestionOutcome& question : outcome.questions)
        for (const AnswerToken& token : question.tokens) {
          EXPECT_EQ(token.nll, token.nll_full);
          EXPECT_EQ(token.kl, 0.0);
          EXPECT_TRUE(token.same_top);
        }
    }
  }
}

TEST(ClosedLoop, TheSameForAnyThreadCount) {
  SuitePrompt prompt = golden_suite().prompts[1];
  prompt.context.resize(256);
  prompt.spans.clear();
  for (SuiteQuestion& question : prompt.questions) question.evidence.reset();
  const auto run = [&] {
    std::vector<double> out;
    const ClosedPrompt closed(tiny_model(), prompt, 0, {});
    for (const char* preset : {"snapkv", "h2o(variant=online)", "random", "tova"})
      for (const QuestionOutcome& question :
           closed.run({sim::bind_policy(preset), {sim::Amount::Kind::fraction, 0.3}, 0}).questions)
        for (const AnswerToken& token : question.tokens) out.push_back(token.nll);
    return out;
  };
  set_thread_count(1);
  const auto one = run();
  set_thread_count(2);
  EXPECT_EQ(one, run());
  set_thread_count(0);
}

TEST(ClosedLoop, FreeTokensAreThoseThatEveryAnswerShares) {
  Suite suite;
  suite.prompts = {{"needle", {0}, {}, {{{}, {5, 1, 2, 9}, {}}, {{}, {5, 3, 9}, {}}}}};
  EXPECT_EQ(free_answer_tokens(suite), std::pair(std::int64_t{1}, std::int64_t{1}));
}

}  // namespace
}  // namespace kvgrind::replay
