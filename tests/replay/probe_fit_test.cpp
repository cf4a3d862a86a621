// Fits whose labels are what keys received while the context was repeated (KVzap, Fast KVzip).
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "core/error.h"
#include "replay/fit/fit.h"
#include "replay/record/record.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

class ProbeFit : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char pattern[] = "/tmp/kvgrind-probe-fit-XXXXXX";
    folder_ = mkdtemp(pattern);
    const Suite suite = read_suite(KVGRIND_SOURCE_DIR "/tests/golden/closed_loop_tiny-3m.json", 4096);
    RecordJob job;
    job.model = &tests::tiny_folder();
    for (std::size_t p = 0; p < 4 && p < suite.prompts.size(); ++p) {
      TokenSequence one;
      one.ids = suite.prompts[p].context;
      one.ids.resize(256);
      one.segments = {{Role::context, 0, 256}};
      job.sequences.push_back(std::move(one));
    }
    job.device = "cpu";
    job.options.column_sums = job.options.pooled_maps = job.options.query_statistics = false;
    job.out = folder_ / "plain.kvt";
    (void)record(job, nullptr, {});
    job.probes.repeat = true;
    job.out = folder_ / "probed.kvt";
    (void)record(job, nullptr, {});
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  static FitRequest request(const char* method, const char* file) {
    FitRequest out;
    out.method = method;
    out.runs = {
        with_output_projection(recorded_run(traces::Trace::open(folder_ / file, {.probe = false})),
                               [](std::int64_t layer) { return sim::output_projection(*tests::tiny(), layer); })};
    out.epochs = 4;
    out.ridge = 100;
    return out;
  }
  static inline std::filesystem::path folder_;
};

TEST_F(ProbeFit, KvzapPredictsOtherTexts) {
  const Calibration linear = fit(request("kvzap", "probed.kvt"));
  EXPECT_LT(linear.number("held_out_error", 9), 0.9);  // 1 = no better than the mean
  EXPECT_LT(linear.number("fitted_error", 9), linear.number("held_out_error", 9));
  EXPECT_TRUE(linear.tensors.contains("w 0"));
  FitRequest deep = request("kvzap", "probed.kvt");
  deep.hidden = 16;
  deep.epochs = 20;
  const Calibration network = fit(deep);
  EXPECT_LT(network.number("held_out_error", 9), 0.95);
  EXPECT_EQ(network.number("gelu", 0), 1);
  EXPECT_TRUE(network.tensors.contains("w2 0"));
}

TEST_F(ProbeFit, GateComesNearerWithEveryPass) {
  FitRequest one = request("fast_kvzip", "probed.kvt"), more = one;
  one.epochs = 1;
  more.epochs = 12;
  const Calibration rough = fit(one), fine = fit(more);
  EXPECT_LT(fine.number("fitted_error", 9), 0.7 * rough.number("fitted_error", 9));
  EXPECT_LT(fine.number("held_out_error", 9), rough.number("held_out_error", 9));
  EXPECT_GE(fine.number("fitted_error", -1), 0);  // the entropy of the labels is the least there is
}

TEST_F(ProbeFit, RefusedWithoutThePasses) {
  for (const char* method : {"kvzap", "fast_kvzip"}) try {
      (void)fit(request(method, "plain.kvt"));
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("--probes repeat"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace kvgrind::replay
