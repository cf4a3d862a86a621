// What a policy in the cache costs: one configuration of the closed loop on the example model (a context of 1024
// tokens, three questions) against the same prefill and questions without a policy, in turn within one run. Counters
// are medians:
//   plain_ms, questions_ms   prefill and questions without a policy; its questions alone, on a prefill that is there
//   policy_ms                the configuration
//   ratio                    policy_ms / plain_ms
//   ratio_cpu                the same of processor time over all threads: tells more on a busy machine
//   ratio_questions          shared prefix only: policy_ms / questions_ms
// Without sharing, a configuration is the prefill, the full cache's answers that it is compared with, and the policy's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <sstream>

#include "replay/closed_loop/closed_loop.h"
#include "sim/model/full_cache.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::bench {
namespace {

struct Example {
  std::shared_ptr<const sim::Model> model;
  replay::SuitePrompt prompt;
};

const Example& example() {
  static const Example one = [] {
    const auto folder = traces::read_model_folder(KVGRIND_SOURCE_DIR "/traces/examples/tiny-3m");
    std::ifstream in(KVGRIND_SOURCE_DIR "/traces/examples/prompts/adventures.txt");
    std::ostringstream text;
    text << in.rdbuf();
    replay::Suite suite = replay::make_suite("needle", {.seed = 1, .prompts = 1, .length = 1024, .questions = 3},
                                             *folder.tokenizer, text.str());
    return Example{sim::build_model(folder.config, folder.weights), std::move(suite.prompts[0])};
  }();
  return one;
}

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Seconds of the prefill and of the questions, as one batch of teacher-forced tails.
std::pair<double, double> plain() {
  const auto& [model, prompt] = example();
  const Clock::time_point begin = Clock::now();
  sim::FullCache prefix(sim::model_config(*model).card);
  const auto context = static_cast<std::int64_t>(prompt.context.size());
  (void)sim::prefill(*model, {.ids = prompt.context, .cache = &prefix, .logits_of = {context - 1}});
  const double prefilled = since(begin);
  std::vector<sim::FullCache> caches(prompt.questions.size(), prefix);
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<sim::Feed> feeds;
  for (const auto& question : prompt.questions) {
    ids.push_back(question.question);
    ids.back().insert(ids.back().end(), question.answer.begin(), question.answer.end() - 1);
  }
  for (std::size_t q = 0; q < ids.size(); ++q) {
    feeds.push_back({.first = context, .ids = ids[q], .cache = &caches[q]});
    for (std::size_t i = 0; i < prompt.questions[q].answer.size(); ++i)
      feeds.back().logits_of.push_back(static_cast<std::int64_t>(prompt.questions[q].question.size() + i) - 1);
  }
  const auto logits = sim::forward(*model, feeds);
  double loss = 0;
  for (std::size_t q = 0; q < ids.size(); ++q)
    for (std::int64_t i = 0; i < logits[q].extent(0); ++i)
      loss += sim::negative_log_probability(
          {logits[q].data() + i * logits[q].extent(1), static_cast<std::size_t>(logits[q].extent(1))},
          prompt.questions[q].answer[static_cast<std::size_t>(i)]);
  benchmark::DoNotOptimize(loss);
  const double all = since(begin);
  return {all, all - prefilled};
}

void closed_loop(benchmark::State& state, const char* policy, bool shared) {
  const replay::EvalJob job{sim::bind_policy(policy), {sim::Amount::Kind::fraction, 0.2}, 0};
  const replay::ClosedPrompt prompt(example().model, example().prompt, 0, {});
  benchmark::DoNotOptimize(prompt.run(job));  // the reference answers and what all jobs share are there now
  std::vector<double> without, questions, with, cpu_without, cpu_with;
  for (auto _ : state) {
    const std::clock_t start = std::clock();
    const auto [all, asked] = plain();
    const std::clock_t middle = std::clock();
    without.push_back(all);
    questions.push_back(asked);
    const Clock::time_point begin = Clock::now();
    if (shared)
      benchmark::DoNotOptimize(prompt.run(job));
    else
      benchmark::DoNotOptimize(
          replay::ClosedPrompt(example().model, example().prompt, 0, {.policies = {job.policy}}).run(job));
    with.push_back(since(begin));
    cpu_without.push_back(static_cast<double>(middle - start));
    cpu_with.push_back(static_cast<double>(std::clock() - middle));
    state.SetIterationTime(with.back());
  }
  state.counters["plain_ms"] = 1e3 * median(without);
  state.counters["questions_ms"] = 1e3 * median(questions);
  state.counters["policy_ms"] = 1e3 * median(with);
  state.counters["ratio"] = median(with) / median(without);
  state.counters["ratio_cpu"] = median(cpu_with) / median(cpu_without);
  if (shared) state.counters["ratio_questions"] = median(with) / median(questions);
}

void setup(benchmark::internal::Benchmark* bench) {
  bench->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(15);
}
BENCHMARK_CAPTURE(closed_loop, snapkv_alone, "snapkv", false)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, expected_attention_alone, "expected_attention", false)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, observed_alone, "observed", false)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, tova_alone, "tova", false)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, snapkv_shared, "snapkv", true)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, expected_attention_shared, "expected_attention", true)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, observed_shared, "observed", true)->Apply(setup);
BENCHMARK_CAPTURE(closed_loop, tova_shared, "tova", true)->Apply(setup);

}  // namespace
}  // namespace kvgrind::bench
