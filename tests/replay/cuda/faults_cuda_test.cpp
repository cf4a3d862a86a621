// What goes wrong while a device records: too little memory at the start and in the middle, a slow disk, a full one,
// Ctrl+C between steps. Skips without a device.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <thread>

#include "core/error.h"
#include "kernels/device/device.h"
#include "replay/record/record.h"
#include "tests/traces/kvt_driver.h"
#include "traces/kvt/trace.h"

namespace kvgrind::replay {
namespace {

// Everything of the device but `left_bytes`, in ever smaller pieces.
std::vector<kernels::DeviceBuffer> hog(std::int64_t left_bytes) {
  std::vector<kernels::DeviceBuffer> out;
  kernels::use_device(0);
  for (std::int64_t piece = 1ll << 36; piece >= 2 << 20;) {
    const std::int64_t free = kernels::device_info(0).free_bytes - left_bytes;
    if (free < piece) {
      piece /= 2;
      continue;
    }
    try {
      out.emplace_back(piece, "a test");
    } catch (const Error&) {
      piece /= 2;
    }
  }
  return out;
}

class AtToken final : public Progress {
 public:
  explicit AtToken(std::function<void(std::int64_t)> then) : then_(std::move(then)) {}
  void update(std::string_view, std::int64_t done, std::int64_t) override { then_(done); }

 private:
  std::function<void(std::int64_t)> then_;
};

class FaultsCuda : public testing::Test {
 protected:
  static constexpr std::int64_t prompt = 384;
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    model = traces::read_model_folder(std::filesystem::path(KVGRIND_SOURCE_DIR) / "traces/examples/tiny-3m");
    model.config.eos.clear();  // generation goes on
  }
  RecordJob job(const std::string& name, std::int64_t decode, bool streaming) const {
    RecordJob out;
    out.model = &model;
    out.out = folder / name;
    out.device = "cuda:0";
    out.chunk = 128;
    out.streaming = streaming;
    TokenSequence one;
    for (std::int64_t i = 0; i < prompt; ++i) one.ids.push_back(static_cast<std::int32_t>(300 + (i * i * 31) % 3000));
    one.segments = {{Role::context, 0, prompt}};
    one.decode = decode;
    out.sequences = {one};
    return out;
  }
  // The error of a recording that must fail.
  static Error failure(const RecordJob& job, Category category, Progress* progress = nullptr,
                       const CancelToken& cancel = {}) {
    try {
      record(job, progress, cancel);
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), category) << error.what();
      return error;
    }
    ADD_FAILURE() << "went on";
    return Error(category, {});
  }
  static std::shared_ptr<const traces::Trace> part_of(const RecordJob& job) {
    return traces::Trace::open(job.out.string() + ".part", {.probe = false});
  }

  traces::ModelFolder model;
  tests::TemporaryFolder folder_;
  std::filesystem::path folder = folder_.path();
};

TEST_F(FaultsCuda, TooLittleMemorySaysWhatIsMissingAndWhatToDo) {
  const auto held = hog(1 << 20);
  const Error error = failure(job("small.kvt", 4, false), Category::unavailable);
  EXPECT_EQ(exit_code(error.category()), 7);
  const Fault& fault = error.fault();
  for (const std::string* part : {&fault.doing, &fault.on, &fault.found, &fault.expected, &fault.next})
    EXPECT_FALSE(part->empty()) << error.what();
  std::printf("%s\n", error.what());
}

TEST_F(FaultsCuda, AutoGoesOnOnTheCpuAndSaysSo) {
  RecordJob one = job("auto.kvt", 4, false);
  const RecordOutcome expected = record(one, nullptr, {});
  one.device = "auto";
  for (const bool streaming : {false, true}) {
    one.streaming = streaming;
    one.options.force = true;
    const auto held = hog(1 << 20);
    const RecordOutcome outcome = record(one, nullptr, {});
    EXPECT_EQ(outcome.device, "cpu");
    EXPECT_NE(outcome.fallback.find("allocating"), std::string::npos) << outcome.fallback;
    EXPECT_EQ(outcome.generated, expected.generated);
    const auto trace = traces::Trace::open(one.out, {.probe = false});
    EXPECT_EQ(trace->state(), traces::TraceState::complete);
    EXPECT_EQ(trace->pooled_map(0, 0, 0).has_value(), !streaming);
  }
}

TEST_F(FaultsCuda, MemoryThatEndsInTheMiddleLeavesWhatWasRecorded) {
  for (const bool streaming : {false, true}) {
    SCOPED_TRACE(streaming ? "streaming" : "tap");
    RecordJob one = job(streaming ? "mid_s.kvt" : "mid.kvt", 20, streaming);
    TokenSequence fork;  // needs a cache of its own, larger than what is left then
    fork.parent = 0, fork.fork_at = prompt;
    fork.ids = {400, 401, 402};
    fork.segments = {{Role::question, prompt, prompt + 3}};
    fork.decode = 3600;
    one.sequences.push_back(fork);
    std::vector<kernels::DeviceBuffer> held;
    AtToken starve([&](std::int64_t done) {
      if (done == prompt + 10) held = hog(1 << 20);
    });
    const Error error = failure(one, Category::unavailable, &starve);
    held.clear();
    EXPECT_NE(error.fault().usable.find(".part"), std::string::npos) << error.what();
    EXPECT_FALSE(error.fault().next.empty());
    const auto trace = part_of(one);
    EXPECT_EQ(trace->state(), traces::TraceState::interrupted);
    EXPECT_EQ(trace->rows(), prompt + 19);
    EXPECT_TRUE(trace->column_sums(0, 0, -1).has_value());  // the first sequence is whole
  }
}

TEST_F(FaultsCuda, ASlowDiskLosesWhatWasChosenAndNothingElse) {
  const std::int64_t steps = 400;
  RecordJob whole = job("whole.kvt", steps, true);
  record(whole, nullptr, {});
  const auto want = traces::Trace::open(whole.out, {.probe = false});
  for (const OnFull choice : {OnFull::drop, OnFull::shrink}) {
    SCOPED_TRACE(on_full_name(choice));
    RecordJob one = job(std::string(on_full_name(choice)) + ".kvt", steps, true);
    one.on_full = choice;
    one.spool_bytes = choice == OnFull::drop ? 1 << 20 : 2 << 20;
    // The disk stands still for a while once decoding has begun; never so long that the run would wait for ever.
    std::atomic<bool> still = false;
    one.before_block = [&](std::int64_t) {
      for (int i = 0; i < 3000 && still; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    };
    AtToken disk([&](std::int64_t done) { still = done >= prompt + 1 && done < prompt + 330; });
    const RecordOutcome outcome = record(one, &disk, {});
    ASSERT_FALSE(outcome.left_out.empty());  // prompt passes may have lost queries too
    if (choice == OnFull::drop) {
      EXPECT_NE(outcome.left_out[0].find("steps: dropped"), std::string::npos);
    }
    for (const std::string& line : outcome.left_out)
      std::printf("%s; %lld waits\n", line.c_str(), static_cast<long long>(outcome.spool_waits));
    const traces::CheckReport report = traces::check_trace(one.out, true);
    EXPECT_TRUE(report.ok) << (report.findings.empty() ? "" : report.findings[0]);
    const auto got = traces::Trace::open(one.out, {.probe = false});
    EXPECT_NE(std::find(got->not_recorded().begin(), got->not_recorded().end(), outcome.left_out[0]),
              got->not_recorded().end());
    ASSERT_EQ(got->tokens(0), want->tokens(0));
    for (const std::int64_t layer : {0, 5}) {
      const Array<float, 2> a = got->keys(0, layer, 0), b = want->keys(0, layer, 0);
      EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), b.data())) << "keys of layer " << layer;
    }
    const traces::RecordedQueries some = got->queries(0, 3, 1), all = want->queries(0, 3, 1);
    EXPECT_LT(some.position.size(), all.position.size());
    for (std::size_t i = 0; i < some.position.size(); ++i)
      for (std::int64_t d = 0; d < some.q.extent(1); ++d)
        ASSERT_EQ(some.q(static_cast<std::int64_t>(i), d), all.q(some.position[i], d)) << some.position[i];
  }
}

TEST_F(FaultsCuda, AFullDiskEndsAStreamedRecordingWithAReadablePrefix) {
  RecordJob one = job("full.kvt", 300, true);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = signal(SIGXFSZ, SIG_IGN);
  AtToken fill([&](std::int64_t done) {  // the file may not grow any more
    if (done != prompt + 100) return;
    const auto size = std::filesystem::file_size(one.out.string() + ".part");
    const rlimit limit{static_cast<rlim_t>(size), before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  });
  const Error error = failure(one, Category::write, &fill);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old);
  EXPECT_EQ(exit_code(error.category()), 5);
  const auto trace = part_of(one);
  EXPECT_GE(trace->rows(), 256);
  EXPECT_LT(trace->rows(), prompt + 299);
}

TEST_F(FaultsCuda, CtrlCBetweenStepsKeepsThoseThatRan) {
  RecordJob one = job("stop.kvt", 300, true);
  CancelToken cancel;
  AtToken stop([&](std::int64_t done) {
    if (done == prompt + 100) cancel.cancel();
  });
  (void)failure(one, Category::interrupted, &stop, cancel);
  EXPECT_EQ(part_of(one)->rows(), prompt + 100);
}

}  // namespace
}  // namespace kvgrind::replay
