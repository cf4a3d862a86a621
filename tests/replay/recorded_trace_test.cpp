// The open loop over a real recording: the example model recorded once, then read back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "replay/open_loop/open_loop.h"
#include "replay/record/record.h"
#include "replay/session.h"
#include "sim/engine/policy.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {
namespace {

class RecordedTrace : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char pattern[] = "/tmp/kvgrind-recorded-XXXXXX";
    folder_ = mkdtemp(pattern);
    const auto model = traces::read_model_folder(std::filesystem::path(KVGRIND_SOURCE_DIR) / "traces/examples/tiny-3m");
    std::mt19937_64 rng(3);
    const auto ids = [&](std::int64_t n) {
      std::vector<std::int32_t> out;
      for (std::int64_t i = 0; i < n; ++i) out.push_back(3 + static_cast<std::int32_t>(rng() % 800));
      return out;
    };
    TokenSequence context, fork;
    context.ids = ids(150);
    context.segments = {{Role::context, 0, 150}};
    fork.ids = ids(18);
    fork.parent = 0;
    fork.fork_at = 150;
    fork.segments = {{Role::question, 150, 160}, {Role::answer, 160, 168}};
    RecordJob job;
    job.model = &model;
    job.sequences = {context, fork};
    job.out = folder_ / "run.kvt";
    job.device = "cpu";
    (void)record(job, nullptr, CancelToken());
    job.stored = DType::bf16;
    job.out = folder_ / "half.kvt";
    (void)record(job, nullptr, CancelToken());
    job.out = folder_ / "run.kvt";
    // So few tokens make W_O too large a share of the file: it comes from the model, as with `replay --model`.
    const auto trace = traces::Trace::open(job.out, {.probe = false});
    EXPECT_FALSE(trace->output_projection(0).has_value());
    EXPECT_FALSE(trace->not_recorded().empty());
    const auto runtime = sim::build_model(model.config, model.weights);
    const auto run = with_output_projection(
        recorded_run(trace), [runtime](std::int64_t layer) { return sim::output_projection(*runtime, layer); });
    session_ = std::make_shared<Session>(run, trace);
  }
  static void TearDownTestSuite() {
    session_.reset();
    std::filesystem::remove_all(folder_);
  }
  static std::filesystem::path folder_;
  static std::shared_ptr<Session> session_;
};
std::filesystem::path RecordedTrace::folder_;
std::shared_ptr<Session> RecordedTrace::session_;

// The CPU runs in fp32, so the file does, unless asked; bytes are charged at the weights' 16 bits either way.
TEST_F(RecordedTrace, HoldsWhatTheRunSawAndChargesWhatACacheWouldHold) {
  const auto whole = traces::Trace::open(folder_ / "run.kvt", {.probe = false});
  const auto half = traces::Trace::open(folder_ / "half.kvt", {.probe = false});
  EXPECT_EQ(whole->card().dtype, DType::f32);
  EXPECT_EQ(half->card().dtype, DType::bf16);
  EXPECT_EQ(whole->card().charged_dtype(), DType::bf16);
  EXPECT_EQ(whole->card().kv_bytes_per_token(), half->card().kv_bytes_per_token());
  const Array<float, 2> exact = whole->values(0, 1, 0), rounded = half->values(0, 1, 0);
  std::int64_t inexact = 0;
  for (std::int64_t t = 0; t < 150; ++t)
    for (std::int64_t d = 0; d < whole->card().head_dim; ++d) {
      const float x = exact(t, d), y = rounded(t, d);
      EXPECT_NEAR(x, y, std::fabs(x) / 256 + 1e-30);
      inexact += x != y;
    }
  EXPECT_GT(inexact, 0);
}

TEST_F(RecordedTrace, EveryRowOfAttentionSumsToOne) {
  const ModelCard& card = session_->run().card();
  for (std::int64_t layer = 0; layer < card.layers; ++layer) {
    const Tile tile = session_->attention_tile({.sequence = 1,
                                                .layer = layer,
                                                .query_head = card.query_heads - 1,
                                                .query_begin = 0,
                                                .query_end = 168,
                                                .key_begin = 0,
                                                .key_end = 168});
    ASSERT_TRUE(tile.exact);
    // Q and K were rounded to 16 bits, the LSE comes from before that: single rows are off, their mean is not.
    double all = 0;
    for (std::int64_t i = 0; i < 168; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j <= i; ++j) sum += static_cast<double>(tile.value(i, j));
      EXPECT_NEAR(sum, 1.0, 0.1) << "layer " << layer << " query " << i;
      all += sum / 168;
    }
    EXPECT_NEAR(all, 1.0, 0.005) << "layer " << layer;
  }
}

TEST_F(RecordedTrace, ColumnSumsAreThoseOfTheTiles) {
  const auto received = session_->received_mass(1, 2, 1);
  const Tile tile =
      session_->attention_tile({.sequence = 1, .layer = 2, .query_head = 1, .query_end = 168, .key_end = 168});
  for (std::int64_t j = 0; j < 168; ++j) {
    double sum = 0;
    for (std::int64_t i = j; i < 168; ++i) sum += static_cast<double>(tile.value(i, j));
    EXPECT_NEAR(received[static_cast<std::size_t>(j)], sum, 0.02 + 0.02 * sum);
  }
}

TEST_F(RecordedTrace, EveryPresetRunsAndFullBudgetIsTheIdentity) {
  const auto data = session_->data(1);
  EXPECT_EQ(data->context_end(), 150);
  EXPECT_EQ(root_sequence(session_->run(), 1), 0);
  int ran = 0;
  for (const std::string& preset : sim::preset_names()) {
    const auto policy = sim::bind_policy(preset);
    if (!sim::needed_calibrations(*policy).empty()) continue;  // fit_test.cpp
    const auto signals = sim::needed_signals(*policy);
    if (!std::all_of(signals.begin(), signals.end(), [&](sim::Signal s) { return data->source().has(s); })) continue;
    SCOPED_TRACE(preset);
    const OpenOutcome some = run_open(*data, {.policy = policy, .amount = sim::parse_amount("0.3")});
    EXPECT_TRUE(some.metrics.contains("D.answer"));
    ++ran;
    if (sim::count_class(*policy) == sim::CountClass::fixed) continue;
    const OpenOutcome whole = run_open(*data, {.policy = policy, .amount = sim::parse_amount("1")});
    EXPECT_EQ(whole.metrics.at("recall.all").value, 1.0);
    EXPECT_EQ(whole.metrics.at("D.answer").value, 0.0);
  }
  EXPECT_GE(ran, 14);
}

}  // namespace
}  // namespace kvgrind::replay
