// The closed loop with the model on a device: the same decisions and the same logits as on the CPU, for every preset
// that a running model can serve, in fp32. Skips without a device.
#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/device/device.h"
#include "replay/eval/eval.h"
#include "sim/model/cuda_runtime.h"
#include "tests/replay/closed_support.h"
#include "tests/replay/kept_agreement.h"

namespace kvgrind::replay {
namespace {

using tests::tiny;

class LogitTap final : public Tap {
 public:
  void end(const TapEnd& shown) override {
    for (std::int64_t r = 0; r < shown.logits.extent(0); ++r)
      for (std::int64_t v = 0; v < shown.logits.extent(1); ++v) logits.push_back(shown.logits(r, v));
  }
  std::vector<float> logits;
};

class ClosedCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    if (!on_device) on_device = placed(DType::f32);
  }
  static std::shared_ptr<const sim::Model> placed(DType arithmetic) {
    return sim::build_model_on_device(tests::tiny_folder().config, tests::tiny_folder().weights,
                                      {.device = 0, .arithmetic = arithmetic});
  }
  struct Run {
    tests::Decided decided;
    JobOutcome outcome;
    std::vector<float> logits;
  };
  static Run run(const ClosedPrompt& prompt, const std::string& preset, double budget) {
    Run out;
    LogitTap tap;
    auto* const before = std::exchange(tests::watched, &out.decided.firings);
    const auto on_plan = [&out](const sim::GroupPlan& plan) { tests::note_fate(out.decided.firings.back(), plan); };
    out.outcome = prompt.run_observed(
        {tests::watched_policy(tests::closed_policy(preset)), {sim::Amount::Kind::fraction, budget}, 5},
        {.on_plan = on_plan, .first_tail = &tap});
    tests::watched = before;
    out.logits = std::move(tap.logits);
    return out;
  }
  static double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    double out = a.size() == b.size() ? 0.0 : INFINITY;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (const double d = std::fabs(static_cast<double>(a[i]) - b[i]); !(d <= out)) out = d;
    return out;
  }
  // Every preset; returns the largest difference of a logit where all decisions were equal.
  double compare(const ClosedOptions& options, const std::vector<std::string>& presets, double budget) {
    const ClosedPrompt cpu(tiny(), tests::small_prompt(200), 0, options);
    const ClosedPrompt device(on_device, tests::small_prompt(200), 0, options);
    tests::Agreement sum;
    double largest = 0.0;
    int equal = 0;
    for (const std::string& preset : presets) {
      SCOPED_TRACE(preset);
      const Run a = run(cpu, preset, budget), b = run(device, preset, budget);
      const tests::Agreement one = tests::agreement(a.decided, b.decided, sim::bind_policy(preset)->budget_row().scope);
      EXPECT_EQ(one.others, 0) << one.worst;
      EXPECT_EQ(a.decided.firings.size(), b.decided.firings.size());
      sum.add(one);
      if (one.near_ties + one.rank_ties + one.others + one.followers > 0) continue;
      ++equal;
      const double difference = largest_difference(a.logits, b.logits);
      EXPECT_LE(difference, 1e-3);
      EXPECT_LE(tests::largest_difference(tests::losses(a.outcome), tests::losses(b.outcome)), 1e-3);
      EXPECT_EQ(a.outcome.stored_bytes, b.outcome.stored_bytes);
      largest = std::max(largest, difference);
    }
    std::printf(
        "closed loop, %s%s: %zu presets, %d decide all alike (%lld decisions, %lld near ties); logits within "
        "%.2g\n",
        std::string(turns_name(options.turns)).c_str(), options.compressed_prefill ? ", compressed prefill" : "",
        presets.size(), equal, static_cast<long long>(sum.decisions),
        static_cast<long long>(sum.near_ties + sum.rank_ties), largest);
    EXPECT_GT(equal, static_cast<int>(presets.size()) * 9 / 10);
    return largest;
  }
  static inline std::shared_ptr<const sim::Model> on_device;
};

TEST_F(ClosedCuda, DecidesAndAnswersAsOnTheCpu) {
  EXPECT_GT(compare({.turns = Turns::blind, .kl = false}, tests::closed_presets(), 0.3), 0.0);
}

TEST_F(ClosedCuda, TurnsInOneCacheAndACompressedPrefillToo) {
  const std::vector<std::string> some = {"snapkv", "h2o", "tova", "adakv", "streamingllm", "random"};
  compare({.turns = Turns::multi, .kl = false}, some, 0.3);
  compare({.prefill_chunk = 64, .compressed_prefill = true, .kl = false},
          {"score=key_norm budget=uniform select=topk act=drop schedule=chunk(size=64) read=all",
           "score=window_attention(window=16) budget=uniform select=topk act=drop schedule=chunk(size=64) read=all"},
          0.4);
}

TEST_F(ClosedCuda, Bf16AnswersNearly) {
  const auto half = placed(DType::bf16);
  const ClosedPrompt cpu(tiny(), tests::small_prompt(200), 0, {.kl = false});
  const ClosedPrompt device(half, tests::small_prompt(200), 0, {.kl = false});
  for (const char* preset : {"full", "snapkv", "knorm"}) {
    const auto a = tests::losses(run(cpu, preset, 0.5).outcome), b = tests::losses(run(device, preset, 0.5).outcome);
    double sum = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += std::fabs(a[i] - b[i]);
    std::printf("closed loop in bf16, %s: mean |NLL difference| %.3g of %zu answer tokens\n", preset,
                sum / static_cast<double>(a.size()), a.size());
    EXPECT_LE(sum / static_cast<double>(a.size()), 0.2);
  }
}

// What `kvgrind eval --device` runs: jobs side by side on one device.
TEST_F(ClosedCuda, EvaluationsOfManyJobsAtOnceAreThoseOfTheCpu) {
  EvalRequest request;
  request.suite.name = "small";
  request.suite.prompts = {tests::small_prompt(200), tests::small_prompt(160)};
  request.policies = {"snapkv", "h2o", "random", "full"};
  request.amounts = sim::parse_amounts("0.5,0.2");
  request.model = tiny();
  const EvalOutcome cpu = run_eval(request, nullptr, {});
  request.model = on_device;
  const EvalOutcome device = run_eval(request, nullptr, {});
  ASSERT_EQ(cpu.failed + device.failed, 0);
  ASSERT_EQ(cpu.rows.size(), device.rows.size());
  for (std::size_t i = 0; i < cpu.rows.size(); ++i) {
    ASSERT_EQ(traces::job_key(cpu.rows[i]), traces::job_key(device.rows[i]));
    EXPECT_EQ(cpu.rows[i].kept_tokens_mean, device.rows[i].kept_tokens_mean);
    EXPECT_NEAR(cpu.rows[i].metrics.at("nll_mean").value, device.rows[i].metrics.at("nll_mean").value, 1e-3)
        << cpu.rows[i].preset;
  }
}

}  // namespace
}  // namespace kvgrind::replay
