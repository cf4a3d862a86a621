// Traces recorded on a device against those of the CPU: the same numbers, the same tools. Skips without a device.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "kernels/device/device.h"
#include "kernels/rank/rank.h"
#include "replay/record/record.h"
#include "traces/kvt/trace.h"

namespace kvgrind::replay {
namespace {

namespace fs = std::filesystem;

class RecordCuda : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (kernels::device_count() == 0) return;
    model =
        new traces::ModelFolder(traces::read_model_folder(fs::path(KVGRIND_SOURCE_DIR) / "traces/examples/tiny-3m"));
    folder = fs::temp_directory_path() / ("kvgrind_record_cuda_" + std::to_string(::getpid()));
    fs::create_directories(folder);
  }
  static void TearDownTestSuite() {
    delete model;
    model = nullptr;
    if (!folder.empty()) fs::remove_all(folder);
  }
  void SetUp() override {
    if (kernels::device_count() == 0) GTEST_SKIP() << "no CUDA device";
  }

  // A prompt of `tokens` with two segments, a fork at two thirds, and decoding in both.
  static RecordJob job(const std::string& name, const std::string& device, std::int64_t tokens) {
    RecordJob out;
    out.model = model;
    out.out = folder / name;
    out.device = device;
    out.options.force = true;
    out.chunk = 192;
    TokenSequence first;
    for (std::int64_t i = 0; i < tokens; ++i)
      first.ids.push_back(i == 0 ? 0 : static_cast<std::int32_t>(300 + (i * i * 31 + i * 7) % 3000));
    first.segments = {{Role::context, 0, tokens * 3 / 4}, {Role::question, tokens * 3 / 4, tokens}};
    first.decode = 90;
    TokenSequence fork;
    fork.parent = 0, fork.fork_at = tokens * 2 / 3;
    for (int i = 0; i < 50; ++i) fork.ids.push_back(400 + i * 11);
    fork.segments = {{Role::question, fork.fork_at, fork.fork_at + 50}};
    fork.decode = 5;
    out.sequences = {first, fork};
    return out;
  }
  static std::shared_ptr<const traces::Trace> recorded(const RecordJob& job) {
    outcome = record(job, nullptr, {});
    EXPECT_EQ(outcome.device, job.device);
    const traces::CheckReport report = traces::check_trace(job.out, true);
    EXPECT_TRUE(report.ok) << (report.findings.empty() ? "" : report.findings[0]);
    return traces::Trace::open(job.out, {.probe = false});
  }

  static inline traces::ModelFolder* model = nullptr;
  static inline fs::path folder;
  static inline RecordOutcome outcome;
};

double difference(const float* a, const float* b, std::int64_t n, double relative = 0.0) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])) -
                     relative * std::abs(static_cast<double>(b[i]));
    if (!(d <= largest)) largest = d;
  }
  return largest;
}
double difference(const Array<float, 2>& a, const Array<float, 2>& b, double relative = 0.0) {
  return a.extents() == b.extents() ? difference(a.data(), b.data(), a.size(), relative) : INFINITY;
}
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() ? difference(a.data(), b.data(), static_cast<std::int64_t>(a.size())) : INFINITY;
}

// K, V and Q are stored in the file's type: two files may round two nearly equal values to neighbours.
void expect_equal_traces(const traces::Trace& a, const traces::Trace& b, double rounding, bool every_part) {
  ASSERT_EQ(a.sequences().size(), b.sequences().size());
  const ModelCard& card = b.card();
  for (std::int64_t s = 0; s < static_cast<std::int64_t>(b.sequences().size()); ++s) {
    SCOPED_TRACE("sequence " + std::to_string(s));
    ASSERT_EQ(a.tokens(s), b.tokens(s));
    EXPECT_EQ(a.next_token(s), b.next_token(s));
    for (std::int64_t l = 0; l < card.layers; ++l) {
      SCOPED_TRACE("layer " + std::to_string(l));
      for (std::int64_t h = 0; h < card.kv_heads; ++h) {
        EXPECT_LE(difference(a.keys(s, l, h), b.keys(s, l, h), rounding), 1e-3) << "k of head " << h;
        EXPECT_LE(difference(a.values(s, l, h), b.values(s, l, h), rounding), 1e-3) << "v of head " << h;
      }
      for (std::int64_t h = 0; h < card.query_heads; ++h) {
        const traces::RecordedQueries x = a.queries(s, l, h), y = b.queries(s, l, h);
        ASSERT_EQ(x.position, y.position);
        EXPECT_LE(difference(x.q, y.q, rounding), 1e-3) << "q of head " << h;
      }
      EXPECT_LE(difference(a.lse(s, l), b.lse(s, l)), 1e-3) << "lse";
      EXPECT_LE(difference(a.attention_input_norm(s, l), b.attention_input_norm(s, l)), 1e-3);
      for (std::int64_t segment = -1; segment < static_cast<std::int64_t>(b.sequences()[0].segments.size());
           ++segment) {
        const auto x = a.column_sums(0, l, segment), y = b.column_sums(0, l, segment);
        ASSERT_EQ(x.has_value(), y.has_value()) << "segment " << segment;
        if (x) {
          EXPECT_LE(difference(*x, *y, rounding > 0.0 ? 3e-2 : 1e-3), 1e-3) << "column sums of " << segment;
        }
      }
      ASSERT_TRUE(a.column_sums(0, l, -1) && a.column_sums(0, l, 0));
    }
    for (std::int64_t l = 0; l <= card.layers; ++l)
      EXPECT_LE(difference(a.hidden_norm(s, l), b.hidden_norm(s, l)), 2e-3) << "norm of the residual " << l;
    if (every_part) {
      EXPECT_LE(difference(a.nll(s), b.nll(s)), 1e-3) << "nll";
    }
  }
}

TEST_F(RecordCuda, Fp32GivesTheTraceOfTheCpu) {
  RecordJob on_cpu = job("cpu.kvt", "cpu", 400), on_gpu = job("gpu.kvt", "cuda:0", 400);
  const auto cpu = recorded(on_cpu);
  const auto cpu_outcome = outcome;
  const auto gpu = recorded(on_gpu);
  EXPECT_EQ(outcome.generated, cpu_outcome.generated);
  // The CPU's file may hold K and V in the model's own 16-bit type.
  expect_equal_traces(*gpu, *cpu, cpu->card().dtype == DType::f32 ? 0.0 : 0x1p-7, true);
}

TEST_F(RecordCuda, StreamingGivesWhatTheTapGives) {
  for (const DType arithmetic : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(dtype_name(arithmetic));
    RecordJob tap = job("tap.kvt", "cuda:0", 700), streaming = job("streaming.kvt", "cuda:0", 700);
    tap.arithmetic = streaming.arithmetic = arithmetic;
    streaming.streaming = true;
    streaming.spool_bytes = 8ll << 20;  // small: the run has to wait now and then
    const auto want = recorded(tap);
    const auto got = recorded(streaming);
    EXPECT_EQ(got->card().dtype, arithmetic);
    expect_equal_traces(*got, *want, arithmetic == DType::f32 ? 0.0 : 0x1p-6, false);
    EXPECT_FALSE(got->pooled_map(0, 0, 0).has_value());
    EXPECT_FALSE(got->not_recorded().empty());
  }
}

// Maps are stored in 253 steps of six decades: a sum in another order may fall into the neighbouring step.
double steps_apart(const Array<float, 2>& a, const Array<float, 2>& b) {
  if (a.extents() != b.extents()) return INFINITY;
  double largest = 0.0;
  const auto step = [](float p) { return p <= 0.0f ? 0.0 : std::max(0.0, 254.0 + 253.0 / 6.0 * std::log10(p)); };
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(step(a.data()[i]) - step(b.data()[i]));
    if (!(d <= largest)) largest = d;
  }
  return largest;
}

TEST_F(RecordCuda, StreamingWithAllItCanAddGivesWhatTheTapGives) {
  RecordJob tap = job("tap_all.kvt", "cuda:0", 700), streaming = job("streaming_all.kvt", "cuda:0", 700);
  streaming.streaming = true;
  streaming.extras = {.maps = true, .statistics = true, .top64 = true};
  const auto want = recorded(tap);
  const auto got = recorded(streaming);
  expect_equal_traces(*got, *want, 0.0, true);  // NLL too
  for (std::int64_t s = 0; s < 2; ++s) {
    SCOPED_TRACE("sequence " + std::to_string(s));
    for (std::int64_t l = 0; l < want->card().layers; ++l) {
      for (std::int64_t h = 0; h < want->card().query_heads; ++h) {
        const auto a = got->pooled_map(s, l, h), b = want->pooled_map(s, l, h);
        ASSERT_TRUE(a && b);
        EXPECT_EQ(a->cell_tokens, b->cell_tokens);
        EXPECT_LE(steps_apart(a->max, b->max), 1.01) << "layer " << l << " head " << h;
        EXPECT_LE(steps_apart(a->mean, b->mean), 1.01) << "layer " << l << " head " << h;
      }
      const auto x = got->query_statistics(s, l, 2), y = want->query_statistics(s, l, 2);
      ASSERT_EQ(x.size(), y.size());
      for (std::size_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(x[i].n, y[i].n);
        EXPECT_LE(difference(x[i].mean, y[i].mean), 1e-3);
        EXPECT_LE(difference(x[i].mean_modulus, y[i].mean_modulus), 1e-3);
        EXPECT_LE(difference(x[i].second_moment, y[i].second_moment, 1e-3), 1e-3);
      }
    }
    EXPECT_LE(difference(got->top_log_probabilities(s), want->top_log_probabilities(s)), 1e-3);
    const Array<std::int32_t, 2> x = got->top_ids(s), y = want->top_ids(s);
    ASSERT_EQ(x.extents(), y.extents());
    std::int64_t differ = 0;
    for (std::int64_t i = 0; i < y.size(); ++i) differ += x.data()[i] != y.data()[i];
    EXPECT_LE(static_cast<double>(differ), 0.01 * static_cast<double>(y.size()));  // near ties may change places
  }
}

TEST_F(RecordCuda, StreamingKeepsTheChosenQueriesAlone) {
  RecordJob whole = job("whole.kvt", "cuda:0", 300), sampled = job("sampled.kvt", "cuda:0", 300);
  sampled.streaming = true;
  sampled.options.queries = traces::QueryContent::sample;
  sampled.options.query_window = 8;
  const auto want = recorded(whole), got = recorded(sampled);
  const traces::RecordedQueries all = want->queries(0, 2, 3), some = got->queries(0, 2, 3);
  ASSERT_LT(some.position.size(), all.position.size());
  ASSERT_GT(some.position.size(), 90u);  // every decode query and a share of the rest
  for (std::size_t i = 0; i < some.position.size(); ++i) {
    const std::int64_t at = some.position[i];
    ASSERT_EQ(all.position[static_cast<std::size_t>(at)], at);
    ASSERT_LE(difference(&some.q(static_cast<std::int64_t>(i), 0), &all.q(at, 0), all.q.extent(1)), 1e-3) << at;
  }
  // Without any queries the rest is still there.
  RecordJob none = job("none.kvt", "cuda:0", 300);
  none.streaming = true;
  none.options.queries = traces::QueryContent::none;
  const auto without = recorded(none);
  EXPECT_LE(difference(without->lse(0, 5), want->lse(0, 5)), 1e-3);
}

// What a policy would keep: the ranking of keys by the attention they received, on both devices.
TEST_F(RecordCuda, RankingsByColumnSumsAgreeUpToNearTies) {
  const auto cpu = recorded(job("cpu2.kvt", "cpu", 400)), gpu = recorded(job("gpu2.kvt", "cuda:0", 400));
  std::int64_t kept = 0, differ = 0;
  for (std::int64_t l = 0; l < cpu->card().layers; ++l) {
    const auto x = cpu->column_sums(0, l, -1), y = gpu->column_sums(0, l, -1);
    for (std::int64_t h = 0; h < cpu->card().query_heads; ++h) {
      const auto a = kernels::top_k({&(*x)(h, 0), 400}, 80), b = kernels::top_k({&(*y)(h, 0), 400}, 80);
      kept += static_cast<std::int64_t>(a.size());
      std::vector<std::int32_t> missing;
      std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(missing));
      differ += static_cast<std::int64_t>(missing.size());
    }
  }
  printf("kept keys that differ between CPU and CUDA in fp32: %lld of %lld\n", static_cast<long long>(differ),
         static_cast<long long>(kept));
  EXPECT_LE(static_cast<double>(differ), 0.005 * static_cast<double>(kept));
}

TEST_F(RecordCuda, AnInterruptionLeavesAReadablePrefix) {
  for (const bool streaming : {false, true}) {
    RecordJob one = job(streaming ? "stop_s.kvt" : "stop.kvt", "cuda:0", 400);
    one.streaming = streaming;
    CancelToken cancel;
    class StopAfter final : public Progress {
     public:
      explicit StopAfter(CancelToken& token) : token_(token) {}
      void update(std::string_view, std::int64_t done, std::int64_t) override {
        if (done >= 384) token_.cancel();
      }

     private:
      CancelToken& token_;
    } stop(cancel);
    try {
      record(one, &stop, cancel);
      FAIL() << "went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::interrupted);
    }
    const fs::path part = one.out.string() + ".part";
    const auto trace = traces::Trace::open(part, {.probe = false});
    EXPECT_EQ(trace->state(), traces::TraceState::interrupted);
    EXPECT_GE(trace->rows(), 300);
  }
}

TEST_F(RecordCuda, ADeviceThatIsNotThereIsSaid) {
  try {
    record(job("no.kvt", "cuda:99", 100), nullptr, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::unavailable);
  }
  RecordJob wrong = job("no.kvt", "cpu", 100);
  wrong.streaming = true;
  EXPECT_THROW(record(wrong, nullptr, {}), Error);
}

}  // namespace
}  // namespace kvgrind::replay
