// Every fit on recordings of the example model: fitted on one set of prompts, read back from its file, applied to
// another by the presets that take it; what is held out is predicted better than by a constant, where that has a
// meaning.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <iostream>
#include <random>
#include <set>

#include "replay/fit/fit.h"
#include "replay/open_loop/open_loop.h"
#include "replay/record/record.h"
#include "replay/sweep/grid.h"
#include "tests/replay/closed_support.h"
#include "traces/calibration/calibration_file.h"

namespace kvgrind::replay {
namespace {

// The held-out error of a constant in the place of what was fitted; none: the error has no such scale.
const std::map<std::string, std::optional<double>> constant_error = {
    {"qfilters", 1 - 1.0 / 32},     // any direction of 32
    {"triattention", 1},            // the centre 0
    {"expected", 1},                // the mean 0
    {"duo", 1},                     // all heads alike: no correlation
    {"locret", 1},                  // the mean of what is held out
    {"attention_gate", 0.5},        // all open or all closed
    {"kvzap", 1},                   // as locret
    {"fast_kvzip", std::nullopt},   // nats above the labels' own entropy
    {"lukv", 1},                    // equal shares
    {"prefixkv", std::nullopt},     // a distance of shares
    {"razor", 1},                   // all heads alike
    {"compresskv", 1},              // all heads alike
    {"uncomp", 1},                  // all heads alike
    {"lookaheadkv", std::nullopt},  // no query stands for a constant; below, the start of the fit
    {"lococo", std::nullopt},       // plain dropping is 1, which few prompts and passes need not reach
};

class FitRecorded : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char pattern[] = "/tmp/kvgrind-fit-recorded-XXXXXX";
    folder_ = mkdtemp(pattern);
    record_to("fit.kvt", prompts(0, 5, 2));
    record_to("other.kvt", prompts(5, 6, 1));
    std::vector<TokenSequence> echoes;
    std::mt19937_64 rng(5);
    for (int i = 0; i < 2; ++i) {
      std::vector<std::int32_t> once(60);
      for (auto& id : once) id = static_cast<std::int32_t>(300 + rng() % 3000);
      TokenSequence one;
      for (int time = 0; time < 3; ++time) one.ids.insert(one.ids.end(), once.begin(), once.end());
      one.segments = {{Role::context, 0, static_cast<std::int64_t>(one.ids.size())}};
      echoes.push_back(std::move(one));
    }
    record_to("echo.kvt", echoes);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  // 192 tokens of each prompt around each of its first asked needles, the question and the answer.
  static std::vector<TokenSequence> prompts(std::size_t begin, std::size_t end, std::size_t asked_each) {
    const Suite suite = read_suite(KVGRIND_SOURCE_DIR "/tests/golden/closed_loop_tiny-3m.json", 4096);
    constexpr std::int64_t length = 192;
    std::vector<TokenSequence> out;
    for (std::size_t i = begin * asked_each; i < end * asked_each; ++i) {
      const SuitePrompt& prompt = suite.prompts.at(i / asked_each);
      const SuiteQuestion& asked = prompt.questions.at(i % asked_each);
      const auto tokens = static_cast<std::int64_t>(prompt.context.size());
      const std::int64_t first = std::clamp<std::int64_t>(asked.evidence->begin - 80, 0, tokens - length);
      TokenSequence one;
      const auto add = [&one](Role role, auto from, auto to) {
        const auto at = static_cast<std::int64_t>(one.ids.size());
        one.ids.insert(one.ids.end(), from, to);
        one.segments.push_back({role, at, static_cast<std::int64_t>(one.ids.size())});
      };
      add(Role::context, prompt.context.begin() + first, prompt.context.begin() + first + length);
      add(Role::question, asked.question.begin(), asked.question.end());
      add(Role::answer, asked.answer.begin(), asked.answer.end());
      one.spans = {{"needle", asked.evidence->begin - first, asked.evidence->end - first, "asked"}};
      out.push_back(std::move(one));
    }
    return out;
  }

  static void record_to(const char* name, std::vector<TokenSequence> sequences) {
    RecordJob job;
    job.model = &tests::tiny_folder();
    job.sequences = std::move(sequences);
    job.device = "cpu";
    job.probes.repeat = job.probes.reread = true;
    job.out = folder_ / name;
    (void)record(job, nullptr, {});
  }
  static std::shared_ptr<const RecordedRun> run(const std::string& name) {
    return with_output_projection(recorded_run(traces::Trace::open(folder_ / name, {.probe = false})),
                                  [](std::int64_t layer) { return sim::output_projection(*tests::tiny(), layer); });
  }
  static std::shared_ptr<const Calibration> fitted(const std::string& method) {
    FitRequest asked;
    asked.method = method;
    asked.runs = {run(method == "razor" ? "echo.kvt" : "fit.kvt")};
    asked.epochs = 3;
    asked.ridge = 1000;
    asked.recent = 32;
    asked.vectors = 4;
    const std::filesystem::path file = folder_ / (method + ".h5");
    traces::write_calibration(file, fit(asked), true);
    return traces::read_calibration(file);
  }
  static inline std::filesystem::path folder_;
};

TEST_F(FitRecorded, EveryFitOnOneSetOfPromptsServesItsPresetsOnAnother) {
  const SequenceData other(run("other.kvt"), 0);
  std::set<std::string> served;
  for (const FitMethod& method : fit_methods()) {
    SCOPED_TRACE(method.name);
    const auto given = fitted(method.name);
    ASSERT_TRUE(given->numbers.contains("held_out_error"));
    const double error = given->number("held_out_error", NAN), seen = given->number("fitted_error", NAN);
    EXPECT_TRUE(std::isfinite(error) && std::isfinite(seen));
    EXPECT_GE(given->number("sequences_held_out", 0), 1);
    EXPECT_EQ(given->texts.at("error"), method.error);
    const std::optional<double> constant = constant_error.at(method.name);
    std::cout << "  " << method.name << ": held out " << error << ", fitted " << seen;
    if (constant) std::cout << ", a constant " << *constant;
    std::cout << "\n";
    if (constant) {
      EXPECT_LT(error, *constant);
    }
    if (std::string(method.name) == "lookaheadkv") {
      EXPECT_LT(seen, given->number("first_error", 0));
    }

    for (const std::string& preset : sim::preset_names()) {
      const auto needed = sim::needed_calibrations(*sim::bind_policy(preset));
      if (std::find(needed.begin(), needed.end(), method.name) == needed.end()) continue;
      SCOPED_TRACE(preset);
      const OpenOutcome outcome =
          run_open(other, {.policy = calibrated_policy(preset, {given}), .amount = sim::parse_amount("0.3")});
      EXPECT_GT(outcome.slots_called, 0);
      const double recall = outcome.metrics.at("recall.all").value;
      EXPECT_TRUE(recall > 0 && recall <= 1 + 1e-6) << recall;
      served.insert(preset);
    }
  }
  // None that needs something fitted was left out.
  for (const std::string& preset : sim::preset_names())
    EXPECT_EQ(served.contains(preset), !sim::needed_calibrations(*sim::bind_policy(preset)).empty()) << preset;
}

}  // namespace
}  // namespace kvgrind::replay
