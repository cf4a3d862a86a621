// Result files, plans, calibrations and folders of segments mutated: values or an Error, never more.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "core/calibration.h"
#include "tests/fuzz/mutate.h"
#include "tests/traces/kvt_driver.h"
#include "traces/calibration/calibration_file.h"
#include "traces/kvt/segments.h"
#include "traces/results/plans_file.h"
#include "traces/results/results_file.h"

namespace kvgrind::tests {
namespace {

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(Fuzz, Results) {
  const TemporaryFolder folder;
  {
    traces::ResultsWriter writer(folder / "r.jsonl", traces::ResultsWriter::Mode::create);
    writer.write(
        json::object{{"type", "run"}, {"schema", 1}, {"grid", json::object{{"policies", json::array{"knorm"}}}}});
    for (std::int64_t job = 0; job < 3; ++job) {
      traces::ResultRow row;
      row.job = job;
      row.trace = "0123456789abcdef";
      row.preset = "knorm";
      row.budget_asked = "0.2";
      row.metrics["recall.all"] = {.value = 0.5, .n = 3};
      writer.write(row);
    }
    writer.close();
  }
  fuzz("results", {bytes_of(folder / "r.jsonl")}, [&](const std::string& bytes) {
    put(folder / "fuzz.jsonl", bytes);
    (void)traces::read_results(folder / "fuzz.jsonl");
  });
}

TEST(Fuzz, Plans) {
  const TemporaryFolder folder;
  {
    traces::PlansFile plans(folder / "p.h5", false);
    traces::JobPlan plan;
    plan.policy = "score=key_norm";
    plan.preset = "knorm";
    plan.k = {{{0, 1, 1, 2}, {1, 1, 0, 0}}, {{1, 1, 1, 1}, {1, 0, 1, 0}}};
    plan.v = plan.k;
    plan.v[1][0][0] = 3;
    plans.write(0, plan);
    plans.write(1, plan);
    plans.close();
  }
  fuzz("plans", {bytes_of(folder / "p.h5")}, [&](const std::string& bytes) {
    put(folder / "fuzz.h5", bytes);
    for (const std::int64_t job : traces::list_job_plans(folder / "fuzz.h5"))
      (void)traces::read_job_plan(folder / "fuzz.h5", job);
  });
}

TEST(Fuzz, Calibration) {
  const TemporaryFolder folder;
  Calibration calibration;
  calibration.method = "expected";
  calibration.model = "0123456789abcdef";
  calibration.tensors["mean"] = {.shape = {2, 3}, .values = {1, 2, 3, 4, 5, 6}};
  calibration.tensors["modulus"] = {.shape = {4}, .values = {1, 2, 3, 4}};
  calibration.numbers["held_out_error"] = 0.5;
  calibration.texts["traces"] = "a b";
  traces::write_calibration(folder / "c.h5", calibration, false);
  fuzz("calibration", {bytes_of(folder / "c.h5")}, [&](const std::string& bytes) {
    put(folder / "fuzz.h5", bytes);
    (void)traces::read_calibration(folder / "fuzz.h5");
  });
}

TEST(Fuzz, Segments) {
  const TemporaryFolder folder;
  const std::filesystem::path part = folder / "a.kvt.part";
  const Driver driver({.layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 4, .hidden = 2, .vocab = 70},
                      {context_of(60), context_of(60)});
  traces::RecordOptions options;
  options.segments = true;
  options.segment_bytes = 1;
  {
    traces::Recorder recorder(folder / "a.kvt", driver.plan(), options);
    driver.feed(recorder, 0, 16);
    driver.feed(recorder, 1, 16);
  }
  const std::string index = bytes_of(part / "index"), first = bytes_of(part / "0000.h5"),
                    second = bytes_of(part / "0001.h5");
  ASSERT_FALSE(second.empty());
  fuzz("segment index", {index}, [&](const std::string& bytes) {
    put(part / "index", bytes);
    (void)traces::read_segment_index(part);
  });
  fuzz("segments", {first, second}, [&](const std::string& bytes) {
    // The index says the size that is there, so that the contents are looked at.
    put(part / "0000.h5", bytes.substr(0, 8) == first.substr(0, 8) && bytes.size() > second.size() ? bytes : first);
    put(part / "0001.h5", bytes);
    put(part / "index", "kvgrind-segments 1\n0000.h5 " + std::to_string(std::filesystem::file_size(part / "0000.h5")) +
                            "\n0001.h5 " + std::to_string(bytes.size()) + "\n");
    (void)traces::join_segments(part, folder / "joined.kvt");  // what comes of it is a trace like any other
  });
}

}  // namespace
}  // namespace kvgrind::tests
