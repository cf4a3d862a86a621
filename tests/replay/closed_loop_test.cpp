#include "replay/closed_loop/closed_loop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

#include "core/json.h"
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

// Other people's figures for the same prompts: tests/golden/README.md.
TEST(ClosedLoop, AgreesWithTheReferenceRows) {
  std::ifstream in(golden_path);
  std::ostringstream text;
  text << in.rdbuf();
  const json::value golden = parse_json(text.str(), golden_path);

  struct Row {
    std::string press;
    double ratio = 0, accuracy = 0, nll = 0;
  };
  std::vector<Row> rows;
  for (const json::value& entry : golden.at("rows").as_array())
    rows.push_back({std::string(entry.at("press").as_string()), entry.at("ratio").to_number<double>(),
                    entry.at("acc").to_number<double>(), entry.at("nll").to_number<double>()});
  const std::map<std::string, std::string> presets = {
      {"streamingllm", "streamingllm(sinks=4,like=kvpress)"}, {"knorm", "knorm(like=kvpress)"},
      {"snapkv", "snapkv(window=32,pool=5,kernel=avg,like=kvpress)"}, {"tova", "tova(like=kvpress)"},
      {"observed", "observed(like=kvpress)"},
      {"expected", "expected_attention(future=512,sinks=4,cov=on,vnorm=on,eps=0,like=kvpress)"}};

  std::map<std::string, std::pair<double, double>> sums;  // right tokens and Σ nll
  double full_nll = 0, full_right = 0, tokens = 0;
  const Suite& suite = golden_suite();
  for (std::size_t p = 0; p < suite.prompts.size(); ++p) {
    const ClosedPrompt prompt(tiny_model(), suite.prompts[p], static_cast<std::int64_t>(p), {.kl = false});
    for (const QuestionOutcome& question : prompt.run_full().questions)
      for (const AnswerToken& token : question.tokens) {
        full_nll += token.nll;
        full_right += token.right;
        ++tokens;
      }
    parallel_for(static_cast<std::int64_t>(rows.size()), [&](std::int64_t r) {
      const Row& row = rows[static_cast<std::size_t>(r)];
      const auto preset = presets.find(row.press);
      if (preset == presets.end()) return;
      const JobOutcome outcome =
          prompt.run({sim::bind_policy(preset->second), {sim::Amount::Kind::removed, row.ratio}, 0});
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      auto& [right, nll] = sums[row.press + std::to_string(row.ratio)];
      for (const QuestionOutcome& question : outcome.questions)
        for (const AnswerToken& token : question.tokens) {
          right += token.right;
          nll += token.nll;
        }
    });
  }
  ASSERT_EQ(tokens, 144);
  std::size_t compared = 0;
  for (const Row& row : rows) {
    if (row.press == "none") {
      EXPECT_NEAR(full_nll / tokens, row.nll, 1e-4);
      EXPECT_EQ(full_right, 144);
    }
    if (!presets.contains(row.press)) continue;
    const auto [right, nll] = sums.at(row.press + std::to_string(row.ratio));
    const std::string what = row.press + " removed " + std::to_string(row.ratio);
    EXPECT_LE(std::abs(right - row.accuracy * tokens), 3.0) << what;
    EXPECT_LE(std::abs(nll / tokens - row.nll), std::max(0.03 * row.nll, 0.005)) << what << ": " << nll / tokens;
    ++compared;
  }
  EXPECT_EQ(compared, 18u);
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
