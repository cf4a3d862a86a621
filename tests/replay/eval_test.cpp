// The evaluation of a suite: interrupted and resumed equals uninterrupted, and open and closed loop decide alike.
#include "replay/eval/eval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>

#include "replay/open_loop/open_loop.h"
#include "replay/record/record.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {
namespace {

class Folder {
 public:
  Folder() {
    char pattern[] = "/tmp/kvgrind-eval-XXXXXX";
    path_ = mkdtemp(pattern);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

const traces::ModelFolder& folder() {
  static const traces::ModelFolder model = traces::read_model_folder(KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m");
  return model;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::vector<std::string> result_lines(const std::filesystem::path& path) {
  std::vector<std::string> out;
  std::istringstream in(text_of(path));
  for (std::string line; std::getline(in, line);)
    if (line.find("\"type\":\"result\"") != std::string::npos) out.push_back(line);
  std::sort(out.begin(), out.end());
  return out;
}

Suite small_suite() {
  const std::string haystack = text_of(KVGRIND_SOURCE_DIR "/traces/examples/prompts/adventures.txt");
  return make_suite("needle", {.seed = 5, .prompts = 3, .length = 200, .questions = 2}, *folder().tokenizer, haystack);
}

TEST(Eval, ResumedEqualsUninterrupted) {
  const Folder here;
  EvalRequest request;
  request.model = sim::build_model(folder().config, folder().weights);
  request.suite = small_suite();
  request.policies = {"snapkv", "tova", "random"};
  request.amounts = {{sim::Amount::Kind::fraction, 0.5}, {sim::Amount::Kind::fraction, 0.2}};
  request.out = here / "whole.jsonl";
  EXPECT_EQ(run_eval(request, nullptr, CancelToken()).done, 18);
  const std::string whole = text_of(request.out);
  const auto expected = result_lines(request.out);
  ASSERT_EQ(expected.size(), 18u);
  for (const double share : {0.0, 0.3, 0.55, 0.9}) {  // cut anywhere, as a kill would
    request.out = here / "cut.jsonl";
    std::ofstream(request.out, std::ios::binary)
        << whole.substr(0, static_cast<std::size_t>(share * static_cast<double>(whole.size())));
    request.resume = true;
    const EvalOutcome outcome = run_eval(request, nullptr, CancelToken());
    EXPECT_EQ(outcome.done + outcome.skipped, 18);
    EXPECT_EQ(result_lines(request.out), expected) << share;
  }
}

// The same tokens recorded and replayed, and run with the policy in the cache: the same slots are kept.
TEST(Eval, OpenAndClosedLoopMakeTheSamePlans) {
  const Folder here;
  const Suite suite = small_suite();
  const SuitePrompt& prompt = suite.prompts[0];
  const auto context = static_cast<std::int64_t>(prompt.context.size());
  TokenSequence root, fork;
  root.ids = prompt.context;
  root.segments = {{Role::context, 0, context}};
  fork.parent = 0;
  fork.fork_at = context;
  fork.ids = prompt.questions[0].question;
  const auto asked = context + static_cast<std::int64_t>(fork.ids.size());
  fork.ids.insert(fork.ids.end(), prompt.questions[0].answer.begin(), prompt.questions[0].answer.end());
  fork.segments = {{Role::question, context, asked},
                   {Role::answer, asked, context + static_cast<std::int64_t>(fork.ids.size())}};
  traces::ModelFolder exact = folder();  // recorded as computed, without rounding
  exact.config.card.dtype = DType::f32;
  RecordJob job;
  job.model = &exact;
  job.sequences = {root, fork};
  job.out = here / "run.kvt";
  job.device = "cpu";
  (void)record(job, nullptr, CancelToken());
  const auto run = recorded_run(traces::Trace::open(job.out, {.probe = false}));
  const SequenceData data(run, 1);

  const ClosedPrompt closed(sim::build_model(folder().config, folder().weights), prompt, 1, {.kl = false});
  using Key = std::pair<std::int64_t, std::int64_t>;
  std::int64_t compared = 0, same = 0, kept = 0;
  for (const std::string& preset : sim::preset_names()) {
    const sim::PolicyPtr policy = sim::bind_policy(preset);
    const auto signals = sim::needed_signals(*policy);
    if (!sim::one_shot(*policy) ||
        std::find(signals.begin(), signals.end(), sim::Signal::future_queries) != signals.end() ||
        std::find(signals.begin(), signals.end(), sim::Signal::output_projection) != signals.end())
      continue;
    std::map<Key, std::vector<std::uint8_t>> open_plans, closed_plans;
    std::mutex mutex;
    const auto into = [&mutex](auto& plans) {
      return [&mutex, &plans](const sim::GroupPlan& plan) {
        const std::lock_guard lock(mutex);
        plans[{plan.layer, plan.group}] = plan.keep;
      };
    };
    OpenOptions options;
    options.on_plan = into(open_plans);
    (void)run_open(data, {.policy = policy, .amount = {sim::Amount::Kind::fraction, 0.3}}, options);
    (void)closed.run_observed({policy, {sim::Amount::Kind::fraction, 0.3}, 0},
                              {.on_plan = into(closed_plans), .first_tail = nullptr});
    SCOPED_TRACE(preset);
    ASSERT_EQ(open_plans.size(), closed_plans.size());
    for (const auto& [key, plan] : open_plans) {
      ASSERT_EQ(plan.size(), closed_plans[key].size());
      for (std::size_t i = 0; i < plan.size(); ++i) {
        kept += plan[i];
        same += plan[i] && closed_plans[key][i];
      }
    }
    ++compared;
  }
  EXPECT_GE(compared, 10);
  EXPECT_EQ(same, kept);
}

}  // namespace
}  // namespace kvgrind::replay
