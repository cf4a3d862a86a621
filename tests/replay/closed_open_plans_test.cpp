// Fed the same signals, the open and the closed loop decide alike: for every preset, to the slot, at every decision.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "replay/open_loop/open_loop.h"
#include "replay/record/record.h"
#include "tests/replay/closed_support.h"
#include "tests/replay/echo_run.h"

namespace kvgrind::replay {
namespace {

using tests::tiny;

struct Decision {
  std::int64_t layer = 0, group = 0;
  std::vector<std::uint8_t> keep;
  std::vector<std::int8_t> k_codec, v_codec;
  std::vector<std::int64_t> rotary;
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
  bool operator==(const Decision&) const = default;
};

std::function<void(const sim::GroupPlan&)> into(std::vector<Decision>& out) {
  return [&out](const sim::GroupPlan& plan) {  // plans of one run come one after the other
    Decision one{plan.layer, plan.group, plan.keep, plan.k_codec, plan.v_codec, plan.rotary, {}};
    for (const sim::MergeTerm& term : plan.merges) one.merges.emplace_back(term.from, term.into);
    out.push_back(std::move(one));
  };
}

class ClosedOpenPlans : public ::testing::Test {
 protected:
  static constexpr std::size_t context = 136;

  static void SetUpTestSuite() {
    char pattern[] = "/tmp/kvgrind-plans-XXXXXX";
    folder_ = mkdtemp(pattern);
    const SuitePrompt prompt = tests::small_prompt(context);
    TokenSequence root, both, first;
    root.ids = prompt.context;
    root.segments = {{Role::context, 0, context}};
    root.spans = prompt.spans;
    const auto ask = [&](TokenSequence& fork, const SuiteQuestion& question) {
      const auto add = [&](Role role, const std::vector<std::int32_t>& ids) {
        const auto begin = static_cast<std::int64_t>(context + fork.ids.size());
        fork.ids.insert(fork.ids.end(), ids.begin(), ids.end());
        fork.segments.push_back({role, begin, begin + static_cast<std::int64_t>(ids.size())});
      };
      fork.parent = 0;
      fork.fork_at = context;
      add(Role::question, question.question);
      add(Role::answer, question.answer);
    };
    ask(both, prompt.questions[0]);
    ask(both, prompt.questions[1]);
    ask(first, prompt.questions[0]);
    traces::ModelFolder exact = tests::tiny_folder();  // recorded as computed, without rounding
    exact.config.card.dtype = DType::f32;
    RecordJob job;
    job.model = &exact;
    job.sequences = {root, both, first};
    job.out = folder_ / "run.kvt";
    job.device = "cpu";
    job.probes.repeat = job.probes.reread = job.probes.episode = true;
    (void)record(job, nullptr, CancelToken());
    run_ = with_output_projection(recorded_run(traces::Trace::open(job.out, {.probe = false})),
                                  [](std::int64_t layer) { return sim::output_projection(*tiny(), layer); });
  }
  static void TearDownTestSuite() {
    run_.reset();
    std::filesystem::remove_all(folder_);
  }

  // The closed loop runs with a tap; the open loop replays what the tap saw.
  void expect_equal_plans(const ClosedPrompt& closed, std::int64_t sequence, Protocol protocol,
                          const std::string& text) {
    SCOPED_TRACE(text + " " + std::string(protocol_name(protocol)));
    const sim::PolicyPtr policy = tests::closed_policy(text);
    constexpr sim::Amount some{sim::Amount::Kind::fraction, 0.3};
    tests::TailTap tap(sim::model_config(*tiny()).card.layers);
    std::vector<Decision> in_closed, in_open;
    (void)closed.run_observed({policy, some, 5}, {.on_plan = into(in_closed), .first_tail = &tap});
    const auto echo = std::make_shared<const tests::EchoRun>(run_, tap);
    const SequenceData data(echo, sequence);
    OpenOptions options;
    options.on_plan = into(in_open);
    (void)run_open(data, {.policy = policy, .amount = some, .protocol = protocol, .seed = 5}, options);
    decisions_ += static_cast<std::int64_t>(in_closed.size());
    if (sim::canonical_line(*policy).find("schedule=never") == std::string::npos) {
      EXPECT_FALSE(in_closed.empty());
    }
    // The last answer token is asked for and never fed: the open loop may decide once more, at the end of a piece and
    // of a segment.
    const auto& card = sim::model_config(*tiny()).card;
    ASSERT_GE(in_open.size(), in_closed.size());
    ASSERT_LE(in_open.size(), in_closed.size() + static_cast<std::size_t>(2 * card.layers * card.query_heads));
    for (std::size_t i = 0; i < in_closed.size(); ++i)
      ASSERT_TRUE(in_open[i] == in_closed[i])
          << "decision " << i << " of " << in_closed.size() << ": layer " << in_closed[i].layer << ", group "
          << in_closed[i].group << ", slots " << in_closed[i].keep.size() << ", open " << in_open[i].keep.size();
  }

  static std::filesystem::path folder_;
  static std::shared_ptr<const RecordedRun> run_;
  std::int64_t decisions_ = 0;
};
std::filesystem::path ClosedOpenPlans::folder_;
std::shared_ptr<const RecordedRun> ClosedOpenPlans::run_;

TEST_F(ClosedOpenPlans, OfEveryPreset) {
  const ClosedPrompt blind(tiny(), tests::small_prompt(context), 1, {.turns = Turns::multi, .kl = false});
  const ClosedPrompt aware(tiny(), tests::small_prompt(context, 1), 2, {.turns = Turns::aware, .kl = false});
  std::int64_t compared = 0;
  for (const std::string& preset : tests::closed_presets()) {
    expect_equal_plans(blind, 1, Protocol::blind, preset);
    expect_equal_plans(aware, 2, Protocol::aware, preset);
    ++compared;
  }
  EXPECT_EQ(compared, static_cast<std::int64_t>(sim::preset_names().size()) - 2);  // closed_properties_test.cpp
  EXPECT_GT(decisions_, 1000);
}

TEST_F(ClosedOpenPlans, OfVariantsAndSchedulesThatNoPresetStartsWith) {
  const ClosedPrompt blind(tiny(), tests::small_prompt(context), 1, {.turns = Turns::multi, .kl = false});
  using tests::line_of;
  for (const std::string& text :
       {std::string("h2o(variant=online)"), std::string("tova"), std::string("window"),
        line_of("last_query", "every(n=3)"), line_of("key_norm", "segment"),
        line_of("window_attention(window=8)", "segment"), line_of("key_norm", "segment(scope=new)"),
        line_of("window_attention(window=16)", "chunk(size=64)"), line_of("key_norm", "chunk(size=20)"),
        line_of("key_diff", "chunk(size=10)"), line_of("key_norm", "each_layer")})
    expect_equal_plans(blind, 1, Protocol::blind, text);
  EXPECT_GT(decisions_, 500);
}

}  // namespace
}  // namespace kvgrind::replay
