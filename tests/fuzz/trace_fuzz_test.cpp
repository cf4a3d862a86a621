// Trace files mutated: opening, reading and checking give values or an Error, never more. The first look happens in the
// reader's own probe, as for users.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "core/error.h"
#include "tests/fuzz/mutate.h"
#include "tests/traces/kvt_driver.h"
#include "tests/traces/kvt_read_all.h"

namespace kvgrind::tests {
namespace {

std::string recorded(const TemporaryFolder& folder, const char* name, DType dtype, bool closed) {
  TokenSequence one = context_of(50, 3);
  one.segments = {{Role::context, 0, 40}, {Role::question, 40, 50}};
  one.spans = {{"needle", 3, 5, "x"}};
  TokenSequence fork = context_of(20);
  fork.parent = 0;
  fork.fork_at = 40;
  fork.segments = {{Role::question, 40, 60}};
  const Driver driver(
      {.layers = 2, .query_heads = 2, .kv_heads = 1, .head_dim = 4, .hidden = 2, .vocab = 70, .dtype = dtype},
      {one, fork});
  {
    traces::Recorder recorder(folder / name, driver.plan(), {});
    driver.feed(recorder, 0, 64);
    driver.feed(recorder, 1, 64);
    if (closed) recorder.close();
  }
  std::ifstream in(folder / (closed ? std::string(name) : std::string(name) + ".part"), std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Fuzz, Trace) {
  const TemporaryFolder folder;
  const std::vector<std::string> corpus = {recorded(folder, "a.kvt", DType::f32, true),
                                           recorded(folder, "b.kvt", DType::bf16, false)};
  const std::filesystem::path path = folder / "fuzz.kvt";
  fuzz("trace", corpus, [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    read_all(*traces::Trace::open(path));
  });
}

TEST(Fuzz, TraceCheckAndRepair) {
  const TemporaryFolder folder;
  const std::vector<std::string> corpus = {recorded(folder, "a.kvt", DType::f16, true)};
  const std::filesystem::path path = folder / "fuzz.kvt";
  fuzz("trace check", corpus, [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    (void)traces::check_trace(path, true);
    (void)traces::repair_trace(path, folder / "fixed.kvt", true);
  });
}

}  // namespace
}  // namespace kvgrind::tests
