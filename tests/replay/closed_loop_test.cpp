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
