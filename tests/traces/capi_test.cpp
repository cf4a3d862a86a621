// The C interface: nothing a caller does throws, aborts or harms it; what the writer had committed stays readable
// (R17).
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "traces/capi/kvgrind_record.h"
#include "traces/kvt/trace.h"

namespace kvgrind::tests {
namespace {

using traces::Trace;
using traces::TraceState;

constexpr std::int64_t layers = 2, query_heads = 4, kv_heads = 2, dim = 64;
constexpr const char* card =
    R"({"family":"llama","name":"test","layers":2,"query_heads":4,"kv_heads":2,"head_dim":64,"hidden":32,)"
    R"("intermediate":32,"vocab":64,"max_positions":100000,"dtype":"f32","scale":0.125,"softcap":0.0,"rope":[],)"
    R"("layer":[{"window":0,"rope_set":0},{"window":0,"rope_set":0}],"sinks":[],"model_hash":""})";

std::string plan(const std::string& options = "") {
  return std::string(R"({"card":)") + card + R"(,"sequences":[{"tokens":64,"decode":8}],"spare_sequences":1,)" +
         R"("options":{"queries":"all","fsync":"never","reserve_bytes":65536)" + options + "}}";
}

std::string last_error() { return kvg_last_error(); }

class CApi : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "kvgrind-capi-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override {
    kvg_free(recorder_);
    std::filesystem::remove_all(folder_);
  }
  std::string path() const { return folder_ / "run.kvt"; }
  void start(std::int64_t spool_bytes = 4 << 20) {
    kvg_options options{};
    options.size = sizeof options;
    options.spool_bytes = spool_bytes;
    options.writer = KVG_WRITER;
    ASSERT_EQ(kvg_new(&options, &recorder_), KVG_OK) << last_error();
  }
  void open(const std::string& options = "") {
    ASSERT_EQ(kvg_open(recorder_, path().c_str(), plan(options).c_str()), KVG_OK) << last_error();
  }
  kvg_status status() const {
    kvg_status out{};
    out.size = sizeof out;
    EXPECT_EQ(kvg_get_status(recorder_, &out), KVG_OK);
    return out;
  }
  // A pass of n tokens from `first` on; stops at the first call that fails and returns its code.
  int pass(std::int64_t first, std::int64_t n) {
    rows_.assign(static_cast<std::size_t>(n * query_heads * dim), 0.5F);
    lse_.assign(static_cast<std::size_t>(n * query_heads), 1.0F);
    ids_.assign(static_cast<std::size_t>(n), 7);
    const kvg_part part{0, first, n, ids_.data(), nullptr};
    if (const int code = kvg_begin(recorder_, &part, 1, 4, 0, -1, nullptr); code != KVG_OK) return code;
    for (std::int64_t l = 0; l < layers; ++l)
      if (const int code = layer(l); code != KVG_OK) return code;
    return kvg_end(recorder_, nullptr, -1, nullptr);
  }
  int layer(std::int64_t l) {
    const kvg_rows q{rows_.data(), query_heads * dim, dim}, kv{rows_.data(), kv_heads * dim, dim};
    const kvg_layer_part part{q, kv, kv, lse_.data(), nullptr, nullptr};
    return kvg_layer(recorder_, l, &part, -1, nullptr);
  }
  kvg_recorder* recorder_ = nullptr;
  std::filesystem::path folder_;
  std::vector<float> rows_, lse_;
  std::vector<std::int32_t> ids_;
};

TEST_F(CApi, WholeRecording) {
  start();
  ASSERT_EQ(kvg_prepare(nullptr, 0), KVG_USAGE);
  EXPECT_EQ(kvg_prepare(recorder_, -1), KVG_USAGE);
  open();
  ASSERT_EQ(pass(0, 64), KVG_OK) << last_error();
  ASSERT_EQ(pass(64, 3), KVG_OK) << last_error();
  ASSERT_EQ(kvg_sequence_done(recorder_, 0, 5), KVG_OK);
  ASSERT_EQ(kvg_close(recorder_), KVG_OK) << last_error();
  const auto trace = Trace::open(path());
  EXPECT_EQ(trace->state(), TraceState::complete);
  EXPECT_EQ(trace->rows(), 67);
  EXPECT_EQ(trace->keys(0, 1, 1)(66, 63), 0.5F);
}

TEST_F(CApi, Null) {
  std::int64_t bytes = 0;
  kvg_status out{};
  const float sums = 0;
  EXPECT_EQ(kvg_new(nullptr, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_open(nullptr, "a", "{}"), KVG_USAGE);
  EXPECT_NE(last_error().find("null"), std::string::npos);
  EXPECT_EQ(kvg_describe(nullptr, 0, "{}"), KVG_USAGE);
  EXPECT_EQ(kvg_begin(nullptr, nullptr, 0, 4, 0, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_layer(nullptr, 0, nullptr, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_end(nullptr, nullptr, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_column_sums(nullptr, 0, 0, -1, &sums, 1, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_sequence_done(nullptr, 0, -1), KVG_USAGE);
  EXPECT_EQ(kvg_remark(nullptr, "x"), KVG_USAGE);
  EXPECT_EQ(kvg_drain(nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_get_status(nullptr, &out), KVG_USAGE);
  EXPECT_EQ(kvg_pass_bytes(nullptr, 1, 1, 1, &bytes), KVG_USAGE);
  EXPECT_EQ(kvg_close(nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_interrupt(nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_lse(nullptr, 0, nullptr), KVG_USAGE);
  const kvg_lse_params host{.size = sizeof host};
  EXPECT_EQ(kvg_lse(&host, -1, nullptr), KVG_USAGE);
  kvg_free(nullptr);
  start();
  EXPECT_EQ(kvg_token_text(recorder_, nullptr, nullptr, 1), KVG_USAGE);
  EXPECT_EQ(kvg_output_projection(recorder_, 0, nullptr, 1, 1, KVG_F32), KVG_USAGE);
  EXPECT_EQ(kvg_open(recorder_, nullptr, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_remark(recorder_, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_get_status(recorder_, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_pass_bytes(recorder_, 1, 1, 1, nullptr), KVG_USAGE);
}

TEST_F(CApi, WrongSizesAndOrder) {
  start();
  const std::int64_t descending[] = {3, 1};
  EXPECT_EQ(kvg_token_text(recorder_, "abc", descending, 2), KVG_USAGE);
  EXPECT_EQ(kvg_token_text(recorder_, "abc", descending, -1), KVG_USAGE);
  EXPECT_EQ(kvg_output_projection(recorder_, 0, "abc", -1, 4, KVG_F32), KVG_USAGE);
  EXPECT_EQ(kvg_output_projection(recorder_, 0, "abc", 1, 1, 9), KVG_USAGE);
  EXPECT_EQ(pass(0, 4), KVG_USAGE);  // not open
  EXPECT_EQ(kvg_close(recorder_), KVG_USAGE);
  EXPECT_EQ(kvg_open(recorder_, path().c_str(), "{"), KVG_DAMAGED);
  EXPECT_EQ(kvg_open(recorder_, path().c_str(), R"({"card":{"layers":-1}})"), KVG_DAMAGED);
  open();
  EXPECT_EQ(kvg_open(recorder_, path().c_str(), plan().c_str()), KVG_USAGE);
  EXPECT_EQ(kvg_describe(recorder_, 9, "{}"), KVG_USAGE);
  const float sums = 0;
  EXPECT_EQ(kvg_column_sums(recorder_, 0, 0, -1, &sums, -4, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_column_sums(recorder_, 0, 2, -1, &sums, 1, -1, nullptr), KVG_USAGE);
  const std::int32_t id = 1;
  for (const kvg_part& wrong : {kvg_part{0, 0, 0, &id, nullptr}, kvg_part{0, -1, 1, &id, nullptr},
                                kvg_part{2, 0, 1, &id, nullptr}, kvg_part{0, 0, 1, nullptr, nullptr}})
    EXPECT_EQ(kvg_begin(recorder_, &wrong, 1, 4, 0, -1, nullptr), KVG_USAGE);
  const kvg_part part{0, 0, 1, &id, nullptr};
  EXPECT_EQ(kvg_begin(recorder_, &part, 5000, 4, 0, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_begin(recorder_, &part, 1, 3, 0, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(layer(0), KVG_USAGE);  // no pass
  EXPECT_EQ(kvg_end(recorder_, nullptr, -1, nullptr), KVG_USAGE);
  rows_.assign(query_heads * dim, 0.5F), lse_.assign(query_heads, 1.0F);
  ASSERT_EQ(kvg_begin(recorder_, &part, 1, 4, 0, -1, nullptr), KVG_OK) << last_error();
  EXPECT_EQ(kvg_begin(recorder_, &part, 1, 4, 0, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(layer(1), KVG_USAGE);
  const kvg_layer_part empty{};
  EXPECT_EQ(kvg_layer(recorder_, 0, &empty, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(layer(0), KVG_OK);
  EXPECT_EQ(kvg_end(recorder_, nullptr, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(layer(1), KVG_OK);
  kvg_end_rows end{};
  end.size = sizeof end;
  end.logit_rows = 1, end.vocab = 4;  // no logits
  EXPECT_EQ(kvg_end(recorder_, &end, -1, nullptr), KVG_USAGE);
  end.logit_rows = -1;
  EXPECT_EQ(kvg_end(recorder_, &end, -1, nullptr), KVG_USAGE);
  EXPECT_EQ(kvg_end(recorder_, nullptr, -1, nullptr), KVG_OK);
  EXPECT_EQ(kvg_close(recorder_), KVG_OK) << last_error();
  EXPECT_EQ(Trace::open(path())->rows(), 1);  // none of it harmed the recording
}

TEST_F(CApi, AfterClose) {
  start();
  open();
  ASSERT_EQ(pass(0, 64), KVG_OK);
  ASSERT_EQ(kvg_close(recorder_), KVG_OK) << last_error();
  EXPECT_EQ(pass(64, 1), KVG_USAGE);
  EXPECT_NE(last_error().find("open"), std::string::npos) << last_error();
  EXPECT_EQ(kvg_close(recorder_), KVG_USAGE);
  EXPECT_EQ(kvg_interrupt(recorder_), KVG_USAGE);
  EXPECT_EQ(kvg_remark(recorder_, "x"), KVG_USAGE);
  EXPECT_EQ(status().committed_rows, 64);
}

TEST_F(CApi, StructsOfOtherSizes) {
  kvg_options options{};  // size 0: all defaults, the writer's place from the environment
  ASSERT_EQ(setenv("KVGRIND_RECORD_WRITER", KVG_WRITER, 1), 0);
  ASSERT_EQ(kvg_new(&options, &recorder_), KVG_OK) << last_error();
  EXPECT_EQ(unsetenv("KVGRIND_RECORD_WRITER"), 0);
  struct {
    kvg_status known;
    std::int64_t beyond;
  } later{{}, 77};
  later.known.size = sizeof later;
  EXPECT_EQ(kvg_get_status(recorder_, &later.known), KVG_OK);
  EXPECT_EQ(later.beyond, 77);
  EXPECT_EQ(later.known.spool_bytes, std::int64_t{1} << 30);
  kvg_status shorter{};
  shorter.size = sizeof shorter.size + sizeof shorter.writer_pid;
  shorter.bytes = -3;
  EXPECT_EQ(kvg_get_status(recorder_, &shorter), KVG_OK);
  EXPECT_EQ(shorter.bytes, -3);
}

// One thread feeds, another asks and disturbs; each sees its own last error.
TEST_F(CApi, TwoThreads) {
  start();
  open();
  std::thread other([&] {
    for (int i = 0; i < 200; ++i) {
      EXPECT_EQ(kvg_open(recorder_, "x", plan().c_str()), KVG_USAGE);
      EXPECT_NE(last_error().find("second file"), std::string::npos) << last_error();
      EXPECT_GE(status().committed_rows, 0);
    }
  });
  EXPECT_EQ(kvg_describe(recorder_, 9, "{}"), KVG_USAGE);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(pass(i * 2, 2), KVG_OK) << last_error();
  EXPECT_NE(last_error().find("sequence 9"), std::string::npos) << last_error();
  other.join();
  ASSERT_EQ(kvg_close(recorder_), KVG_OK) << last_error();
  EXPECT_EQ(Trace::open(path())->rows(), 100);
}

TEST_F(CApi, WriterKilled) {
  start();
  open();
  ASSERT_EQ(pass(0, 64), KVG_OK);
  ASSERT_EQ(kvg_drain(recorder_), KVG_OK);
  ASSERT_EQ(kill(status().writer_pid, SIGKILL), 0);
  int code = KVG_OK;
  for (std::int64_t at = 64; at < 100000 && code == KVG_OK; at += 64) code = pass(at, 64);
  EXPECT_EQ(code, KVG_WRITER_GONE);
  EXPECT_NE(last_error().find("repair"), std::string::npos) << last_error();
  EXPECT_EQ(kvg_close(recorder_), KVG_WRITER_GONE);
  EXPECT_NE(status().code, KVG_OK);
  EXPECT_EQ(Trace::open(path() + ".part")->rows(), 64);
}

TEST_F(CApi, DiskFull) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{8 << 20, before.rlim_max};  // files of the writer's end there; larger than the spool, a file too
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  start(2 << 20);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  open();
  int code = KVG_OK;
  std::int64_t fed = 0;
  for (; fed < 20000 && code == KVG_OK; fed += 64) code = pass(fed, 64);
  EXPECT_EQ(code, KVG_WRITE) << last_error();
  EXPECT_FALSE(last_error().empty());
  EXPECT_EQ(kvg_close(recorder_), KVG_WRITE);
  const auto trace = Trace::open(path() + ".part");
  EXPECT_NE(trace->state(), TraceState::complete);  // with no byte left, not even the state could be written
  EXPECT_GT(trace->rows(), 500);
  EXPECT_LT(trace->rows(), fed);
  EXPECT_EQ(trace->rows(), status().committed_rows);
  EXPECT_EQ(trace->keys(0, 0, 0)(trace->rows() - 1, 0), 0.5F);
}

// A file that cannot be made is told at once, or, without waiting, by a later call.
TEST_F(CApi, CannotOpen) {
  for (const char* options : {"", R"(,"wait":false)"}) {
    start();
    const std::string where = folder_ / "none" / "run.kvt";
    int code = kvg_open(recorder_, where.c_str(), plan(options).c_str());
    if (*options == '\0') {
      EXPECT_NE(code, KVG_OK);
    }
    for (std::int64_t at = 0; at < 100000 && code == KVG_OK; at += 64) code = pass(at, 64);
    EXPECT_TRUE(code == KVG_MISSING || code == KVG_WRITE) << code << ": " << last_error();
    EXPECT_NE(last_error().find("none"), std::string::npos) << last_error();
    kvg_free(recorder_);
    recorder_ = nullptr;
  }
}

}  // namespace
}  // namespace kvgrind::tests
