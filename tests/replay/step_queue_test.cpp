// Decode steps on their way through a spool whose disk is slow: what each choice loses, that nothing else is lost, and
// that the file says so.
#include "replay/record/step_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "core/error.h"
#include "tests/traces/kvt_driver.h"

namespace kvgrind::replay {
namespace {

using tests::Driver;
using namespace std::chrono_literals;

// The driver's numbers in a ring and a cache, as a device would have them.
class FakeRun final : public StepSource {
 public:
  explicit FakeRun(const Driver& driver) : driver_(driver), shape_(driver.shape()) {
    const std::int64_t rows = StepQueue::ring_rows, L = shape_.layers;
    q_.resize(static_cast<std::size_t>(rows * L * q_width()));
    lse_.resize(static_cast<std::size_t>(rows * L * shape_.query_heads));
    hidden_.resize(static_cast<std::size_t>(rows * (L + 1)));
    attn_in_.resize(static_cast<std::size_t>(rows * L));
  }
  void run(StepQueue& queue, std::int64_t position) {
    const std::int32_t id = driver_.token(0, position);
    const std::int64_t row = queue.step({.sequence = 0, .first = position, .ids = {&id, 1}, .decode = true});
    const std::int64_t L = shape_.layers;
    for (std::int64_t l = 0; l < L; ++l) {
      copy(driver_.rows("q", 0, position, 1, l, shape_.query_heads, shape_.head_dim), q_, (row * L + l) * q_width());
      copy(driver_.rows("lse", 0, position, 1, l, 1, shape_.query_heads), lse_, (row * L + l) * shape_.query_heads);
      hidden_[static_cast<std::size_t>(row * (L + 1) + l)] = static_cast<float>(position);
      attn_in_[static_cast<std::size_t>(row * L + l)] = static_cast<float>(position) + 0.5f;
    }
    hidden_[static_cast<std::size_t>(row * (L + 1) + L)] = static_cast<float>(position);
    queue.queued();
  }

  void fill(int) override {}
  void ready(int) override {}
  void release(int) override {}
  void copy_queries(std::byte* to, std::int64_t row, std::int64_t every, std::int64_t n) override {
    const std::int64_t width = shape_.layers * q_width();
    for (std::int64_t i = 0; i < n; ++i) put(to + i * width * 4, q_, (row + i * every) * width, width);
  }
  void copy_lse(std::byte* to, std::int64_t row, std::int64_t n) override {
    const std::int64_t width = shape_.layers * shape_.query_heads;
    put(to, lse_, row * width, n * width);
  }
  void copy_norms(std::byte* hidden, std::byte* attn_in, std::int64_t row, std::int64_t n) override {
    put(hidden, hidden_, row * (shape_.layers + 1), n * (shape_.layers + 1));
    put(attn_in, attn_in_, row * shape_.layers, n * shape_.layers);
  }
  void copy_cache(std::byte* k, std::byte* v, std::int64_t first, std::int64_t n) override {
    for (std::int64_t l = 0; l < shape_.layers; ++l)
      for (const auto& [name, to] : {std::pair{"k", k}, std::pair{"v", v}}) {
        const Array<float, 3> rows = driver_.rows(name, 0, first, n, l, shape_.kv_heads, shape_.head_dim);
        auto* out = reinterpret_cast<float*>(to);
        for (std::int64_t h = 0; h < shape_.kv_heads; ++h)
          for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t d = 0; d < shape_.head_dim; ++d)
              out[((l * shape_.kv_heads + h) * n + i) * shape_.head_dim + d] = rows(i, h, d);
      }
  }

 private:
  std::int64_t q_width() const { return shape_.query_heads * shape_.head_dim; }
  static void copy(const Array<float, 3>& from, std::vector<float>& to, std::int64_t at) {
    std::copy_n(from.data(), from.size(), to.data() + at);
  }
  static void put(std::byte* to, const std::vector<float>& from, std::int64_t at, std::int64_t n) {
    std::copy_n(from.data() + at, n, reinterpret_cast<float*>(to));
  }
  const Driver& driver_;
  tests::Shape shape_;
  std::vector<float> q_, lse_, hidden_, attn_in_;
};

class StepQueueTest : public testing::Test {
 protected:
  static constexpr std::int64_t prompt = 100, steps = 257;

  // Runs `steps` steps behind a disk that stands still until `open(steps so far)` lets it go.
  void run(OnFull choice, double spool_halves, const std::function<void(std::int64_t, std::atomic<bool>&)>& at_step) {
    std::atomic<bool> open = false;
    {
      traces::RecordOptions options;
      options.column_sums = options.pooled_maps = options.query_statistics = options.logits_top64 = false;
      traces::Recorder recorder(file_, driver_.plan(), options);
      driver_.pass(recorder, 0, 0, prompt, false, false);
      const ModelCard card = tests::card_of(driver_.shape());
      const std::int64_t half = BlockShape(card, card.layers, 64, 64, card.layers + 1).size_bytes;
      Pressure pressure(choice);
      BlockReader reader(recorder, card);
      FakeRun source(driver_);
      kernels::CaptureSpool spool(kernels::CaptureSpool::no_device,
                                  static_cast<std::int64_t>(spool_halves * static_cast<double>(half)),
                                  [&open](std::int64_t) {
                                    while (!open) std::this_thread::sleep_for(1ms);
                                  });
      StepQueue queue(source, spool, pressure, reader, recorder, card, true);
      for (std::int64_t i = 0; i + 1 < steps; ++i) {
        at_step(i, open);
        if (open && choice != OnFull::block)  // a disk that has caught up, so that what follows does not depend on time
          while (spool.free_bytes() < spool.capacity_bytes()) std::this_thread::sleep_for(1ms);
        source.run(queue, prompt + i);
      }
      open = true;
      queue.flush();
      spool.drain();
      waits_ = spool.counts().waits;
      for (const std::string& line : pressure.remarks()) recorder.remark(line);
      recorder.sequence_done(0, driver_.token(0, prompt + steps - 1));
      recorder.close();
    }
    const traces::CheckReport report = traces::check_trace(file_, true);
    EXPECT_TRUE(report.ok) << (report.findings.empty() ? "" : report.findings[0]);
    trace_ = traces::Trace::open(file_, {.probe = false});
    expect_keys_and_values();
  }

  void expect_keys_and_values() const {
    const tests::Shape& s = driver_.shape();
    for (std::int64_t l = 0; l < s.layers; ++l)
      for (std::int64_t h = 0; h < s.kv_heads; ++h) {
        const Array<float, 2> k = trace_->keys(0, l, h), v = trace_->values(0, l, h);
        ASSERT_EQ(k.extent(0), prompt + steps - 1);
        for (std::int64_t t = 0; t < k.extent(0); ++t)
          for (std::int64_t d = 0; d < s.head_dim; ++d) {
            ASSERT_EQ(k(t, d), tests::fed("k", 0, t, l, h * s.head_dim + d)) << t;
            ASSERT_EQ(v(t, d), tests::fed("v", 0, t, l, h * s.head_dim + d)) << t;
          }
      }
  }
  // Positions whose queries the file has, all of them with the right numbers; with LSE where there are queries.
  std::vector<std::int64_t> positions() const {
    const tests::Shape& s = driver_.shape();
    const traces::RecordedQueries got = trace_->queries(0, 1, 2);
    const Array<float, 2> lse = trace_->lse(0, 1);
    for (std::size_t i = 0; i < got.position.size(); ++i) {
      for (std::int64_t d = 0; d < s.head_dim; ++d)
        EXPECT_EQ(got.q(static_cast<std::int64_t>(i), d), tests::fed("q", 0, got.position[i], 1, 2 * s.head_dim + d))
            << got.position[i];
      EXPECT_EQ(lse(got.position[i], 2), tests::fed("lse", 0, got.position[i], 1, 2));
    }
    return got.position;
  }
  bool says(const std::string& text) const {
    for (const std::string& line : trace_->not_recorded())
      if (line.find(text) != std::string::npos) return true;
    return false;
  }

  tests::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_ / "steps.kvt";
  Driver driver_{tests::Shape{}, {tests::context_of(prompt, steps)}};
  std::shared_ptr<const traces::Trace> trace_;
  std::int64_t waits_ = 0;
};

TEST_F(StepQueueTest, BlockWaitsAndLosesNothing) {
  std::thread disk;
  run(OnFull::block, 1.2, [&](std::int64_t step, std::atomic<bool>& open) {
    if (step == 0)
      disk = std::thread([&open] {
        std::this_thread::sleep_for(30ms);
        open = true;
      });
  });
  disk.join();
  EXPECT_EQ(positions().size(), static_cast<std::size_t>(prompt + steps - 1));
  EXPECT_FALSE(says("spool"));
}

TEST_F(StepQueueTest, DropGivesUpWholeHalvesAndOwesTheirKeys) {
  // The first half fits; the second and third find no room; then the disk is there again.
  run(OnFull::drop, 1.99, [](std::int64_t step, std::atomic<bool>& open) {
    if (step == 192) open = true;
  });
  std::vector<std::int64_t> want;
  for (std::int64_t t = 0; t < prompt + steps - 1; ++t)
    if (t < prompt + 64 || t >= prompt + 192) want.push_back(t);
  EXPECT_EQ(positions(), want);
  EXPECT_TRUE(says("queries, LSE, norms and predictions of 128 steps: dropped")) << trace_->not_recorded().back();
  const Array<float, 2> lse = trace_->lse(0, 0);
  EXPECT_TRUE(std::isnan(lse(prompt + 64, 0)) && std::isnan(lse(prompt + 191, 3)));
  const auto norms = trace_->hidden_norm(0, 1), inner = trace_->attention_input_norm(0, 1);
  EXPECT_EQ(norms[prompt + 10], static_cast<float>(prompt + 10));
  EXPECT_EQ(inner[prompt + 200], static_cast<float>(prompt + 200) + 0.5f);
  EXPECT_TRUE(std::isnan(norms[prompt + 100]));
}

TEST_F(StepQueueTest, DropAtTheEndStillDeliversKeys) {
  run(OnFull::drop, 1.99, [](std::int64_t, std::atomic<bool>&) {});
  EXPECT_EQ(positions().size(), static_cast<std::size_t>(prompt + 64));
  EXPECT_TRUE(says("of 192 steps: dropped"));
}

TEST_F(StepQueueTest, ShrinkKeepsFewerQueriesAsItFills) {
  run(OnFull::shrink, 3.4, [](std::int64_t, std::atomic<bool>&) {});
  // All of the first two halves (less than half full), every fourth of the next, none after that.
  const auto got = positions();
  std::vector<std::int64_t> per_half(4);
  for (const std::int64_t t : got)
    if (t >= prompt) ++per_half[static_cast<std::size_t>((t - prompt) / 64)];
  EXPECT_EQ(per_half, (std::vector<std::int64_t>{64, 64, 16, 0}));
  EXPECT_TRUE(says("queries: 112 of 2 passes left out, the spool was filling")) << trace_->not_recorded().back();
}

TEST_F(StepQueueTest, AFailingDiskReachesTheRun) {
  traces::RecordOptions options;
  options.column_sums = options.pooled_maps = options.query_statistics = options.logits_top64 = false;
  traces::Recorder recorder(file_, driver_.plan(), options);
  driver_.pass(recorder, 0, 0, prompt, false, false);
  const ModelCard card = tests::card_of(driver_.shape());
  Pressure pressure(OnFull::block);
  BlockReader reader(recorder, card);
  FakeRun source(driver_);
  kernels::CaptureSpool spool(kernels::CaptureSpool::no_device, 1 << 20, [](std::int64_t) {
    throw Error(Category::write, {.doing = "writing trace", .on = "", .found = "No space left on device"});
  });
  StepQueue queue(source, spool, pressure, reader, recorder, card, true);
  EXPECT_THROW(
      {
        for (std::int64_t i = 0; i + 1 < steps; ++i) source.run(queue, prompt + i);
        queue.flush();
        spool.drain();
      },
      Error);
  recorder.interrupt();
  EXPECT_EQ(traces::Trace::open(file_.string() + ".part", {.probe = false})->rows(), prompt);
}

}  // namespace
}  // namespace kvgrind::replay
