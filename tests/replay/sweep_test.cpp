// Sweeps: the same rows for any thread count, shard and resume point; merging; one failing job stops nothing.
#include "replay/sweep/sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/replay/synthetic_run.h"
#include "tests/support/for_all.h"
#include "traces/results/plans_file.h"

namespace kvgrind::replay {
namespace {

class Sweep : public ::testing::Test {
 protected:
  Sweep() : run_(tests::synthetic_run({.context = 70, .question = 6, .answer = 8})) {
    char pattern[] = "/tmp/kvgrind-sweep-XXXXXX";
    folder_ = mkdtemp(pattern);
    grid_.policies = {"knorm", "random", "tova"};
    grid_.amounts = sim::parse_amounts("0.1,0.5,20t");
  }
  ~Sweep() override {
    set_thread_count(0);
    std::filesystem::remove_all(folder_);
  }
  std::filesystem::path at(const std::string& name) const { return folder_ / name; }
  static std::string get(const std::filesystem::path& path) {
    std::ostringstream out;
    out << std::ifstream(path, std::ios::binary).rdbuf();
    return out.str();
  }
  // The result rows of a file as text, in order.
  static std::vector<std::string> rows(const std::filesystem::path& path) {
    std::vector<std::string> out;
    for (const auto& row : traces::read_results(path).rows) out.push_back(json_text(traces::to_json(row)));
    return out;
  }
  static std::vector<std::string> sorted(std::vector<std::string> lines) {
    std::sort(lines.begin(), lines.end());
    return lines;
  }
  SweepOutcome sweep(const std::string& name, SweepOptions options = {}) const {
    options.out = at(name);
    return run_sweep(run_, grid_, options, nullptr, CancelToken());
  }
  std::shared_ptr<const tests::SyntheticRun> run_;
  std::filesystem::path folder_;
  Grid grid_;
};

TEST_F(Sweep, JobsAreNumberedPolicyMajor) {
  grid_.protocols = {Protocol::blind, Protocol::aware};
  const Grid resolved = resolve_grid(grid_, *run_);
  EXPECT_EQ(resolved.sequences, (std::vector<std::int64_t>{1, 2, 4, 5}));  // the contexts alone have no tail
  const auto jobs = list_jobs(resolved);
  ASSERT_EQ(jobs.size(), 3u * 3 * 2 * 4);
  EXPECT_EQ(jobs[0].typed, "knorm");
  EXPECT_EQ(jobs[3].sequence, 5);
  EXPECT_EQ(jobs[4].protocol, Protocol::aware);
  EXPECT_EQ(jobs[8].amount.value, 0.5);
  EXPECT_EQ(jobs[24].typed, "random");
  for (std::size_t i = 0; i < jobs.size(); ++i) EXPECT_EQ(jobs[i].number, static_cast<std::int64_t>(i));
}

TEST_F(Sweep, GridsComeBackFromTheirJson) {
  grid_.amounts.push_back({.kind = sim::Amount::Kind::removed, .value = 0.8});
  grid_.seeds = {0, 7};
  const Grid resolved = resolve_grid(grid_, *run_);
  const Grid again = resolve_grid(grid_from_json(grid_to_json(resolved), "grid"), *run_);
  EXPECT_EQ(json_text(grid_to_json(again)), json_text(grid_to_json(resolved)));
  const auto jobs = list_jobs(resolved), jobs_again = list_jobs(again);
  ASSERT_EQ(jobs.size(), jobs_again.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) EXPECT_EQ(job_text(jobs[i]), job_text(jobs_again[i]));
  for (const char* text : {"[]", "{\"policies\":\"knorm\"}", "{\"polices\":[]}", "{\"budgets\":[true]}",
                           "{\"removed\":[1.5]}", "{\"sequences\":[-1]}", "{\"protocols\":[\"blnd\"]}"})
    EXPECT_THROW((void)grid_from_text(text, "grid"), Error) << text;
  EXPECT_THROW((void)resolve_grid({}, *run_), Error);
  Grid absent = grid_;
  absent.sequences = {99};
  EXPECT_THROW((void)resolve_grid(absent, *run_), Error);
  for (const char* text : {"", "1", "1/1", "-1/2", "2/2", "a/b", "0/0", "1/2x"})
    EXPECT_THROW((void)parse_shard(text), Error) << text;
}

TEST_F(Sweep, SameRowsForAnyThreadsShardsAndOrder) {
  set_thread_count(1);
  EXPECT_EQ(sweep("one.jsonl").done, 36);
  const auto expected = rows(at("one.jsonl"));
  ASSERT_EQ(expected.size(), 36u);
  for (const int threads : {2, 4}) {
    set_thread_count(threads);
    const std::string name = "threads" + std::to_string(threads);
    (void)sweep(name);
    EXPECT_EQ(rows(at(name)), expected);  // in job order, too
  }
  // Little memory: sequences come in batches.
  (void)sweep("batches.jsonl", {.cache_bytes = 1});
  EXPECT_EQ(sorted(rows(at("batches.jsonl"))), sorted(expected));
  // Shards, merged in any order; merging again changes nothing.
  std::vector<std::filesystem::path> shards;
  for (std::int64_t i = 0; i < 3; ++i) {
    (void)sweep("shard" + std::to_string(i), {.shard = {i, 3}});
    shards.push_back(at("shard" + std::to_string(2 - i)));
  }
  std::swap(shards[0], shards[1]);
  const MergeOutcome merged = merge_results(shards, at("merged.jsonl"), false);
  EXPECT_EQ(merged.rows, 36);
  EXPECT_EQ(merged.duplicates, 0);
  EXPECT_EQ(rows(at("merged.jsonl")), expected);
  const std::string once = get(at("merged.jsonl"));
  shards.push_back(at("merged.jsonl"));
  const MergeOutcome again = merge_results({at("merged.jsonl"), at("merged.jsonl")}, at("merged.jsonl"), true);
  EXPECT_EQ(again.duplicates, 36);
  EXPECT_EQ(get(at("merged.jsonl")), once);
  EXPECT_THROW((void)merge_results(shards, at("merged.jsonl"), false), Error);
}

TEST_F(Sweep, PermutedGridsGiveTheSameFigures) {
  (void)sweep("a.jsonl");
  std::reverse(grid_.policies.begin(), grid_.policies.end());
  grid_.sequences = {5, 2, 4, 1};
  (void)sweep("b.jsonl");
  const auto figures = [&](const std::string& name) {
    std::vector<std::string> out;
    for (traces::ResultRow row : traces::read_results(at(name)).rows) {
      row.job = 0;
      out.push_back(json_text(traces::to_json(row)));
    }
    return sorted(out);
  };
  EXPECT_EQ(figures("a.jsonl"), figures("b.jsonl"));
}

TEST_F(Sweep, AKilledSweepResumes) {
  (void)sweep("whole.jsonl");
  const auto expected = rows(at("whole.jsonl"));
  const std::string text = get(at("whole.jsonl"));
  tests::for_all(5, 6, [&](std::mt19937_64& rng) {
    std::ofstream(at("cut.jsonl"), std::ios::binary) << text.substr(0, rng() % text.size());
    const SweepOutcome outcome = sweep("cut.jsonl", {.resume = true});
    EXPECT_EQ(outcome.skipped + outcome.done, 36);
    EXPECT_EQ(rows(at("cut.jsonl")), expected);
    EXPECT_EQ(sweep("cut.jsonl", {.resume = true}).skipped, 36);
  });
  EXPECT_THROW((void)sweep("whole.jsonl"), Error);  // exists
  EXPECT_EQ(sweep("whole.jsonl", {.force = true}).done, 36);
  EXPECT_EQ(sweep("fresh.jsonl", {.resume = true}).done, 36);
}

TEST_F(Sweep, AFailingJobBecomesARow) {
  const auto bare = tests::synthetic_run({.context = 70, .question = 6, .answer = 8, .recorded_every = 100});
  grid_.policies = {"knorm", "oracle"};  // the oracle needs every later query
  const std::shared_ptr<const RecordedRun> run = bare;
  const SweepOutcome outcome = run_sweep(run, grid_, {.out = at("r.jsonl")}, nullptr, CancelToken());
  EXPECT_EQ(outcome.done, 24);
  const auto content = traces::read_results(at("r.jsonl"));
  ASSERT_EQ(content.rows.size(), 24u);
  std::int64_t failed = 0;
  for (const auto& row : content.rows) {
    failed += row.status == "error";
    EXPECT_EQ(row.status == "error", !row.message.empty());
    if (row.preset == "knorm") {
      EXPECT_EQ(row.status, "ok");
    }
  }
  EXPECT_EQ(failed, outcome.failed);
  EXPECT_EQ(static_cast<std::size_t>(failed), outcome.messages.size());
}

TEST_F(Sweep, CancellingKeepsWhatIsDone) {
  class CancelAfter final : public Progress {
   public:
    explicit CancelAfter(CancelToken token) : token_(std::move(token)) {}
    void update(std::string_view phase, std::int64_t done, std::int64_t) override {
      if (phase == "replay" && done >= 7) token_.cancel();
    }
    CancelToken token_;
  };
  CancelToken token;
  CancelAfter progress(token);
  try {
    (void)run_sweep(run_, grid_, {.out = at("c.jsonl")}, &progress, token);
    FAIL() << "not interrupted";
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::interrupted);
    EXPECT_NE(std::string(error.what()).find("--resume"), std::string::npos);
  }
  const std::size_t there = rows(at("c.jsonl")).size();
  for (const auto& row : traces::read_results(at("c.jsonl")).rows)  // what was stopped half-way has not failed
    EXPECT_EQ(row.status, "ok") << row.message;
  EXPECT_GE(there, 7u);
  EXPECT_LT(there, 36u);
  EXPECT_EQ(sweep("c.jsonl", {.resume = true}).skipped, static_cast<std::int64_t>(there));
}

TEST_F(Sweep, PlansHoldWhatTheCacheHeld) {
  (void)sweep("p.jsonl", {.plans = at("plans.h5")});
  const Grid resolved = resolve_grid(grid_, *run_);
  const auto jobs = list_jobs(resolved);
  ASSERT_EQ(traces::list_job_plans(at("plans.h5")).size(), jobs.size());
  for (const std::size_t i : {std::size_t{0}, std::size_t{5}, std::size_t{17}, std::size_t{30}}) {
    const SweepJob& job = jobs[i];
    const SequenceData data(run_, job.sequence);
    const OpenOutcome outcome = run_open(data, {.policy = job.policy, .amount = job.amount}, {.token_states = true});
    const traces::JobPlan plan = traces::read_job_plan(at("plans.h5"), job.number);
    EXPECT_EQ(plan.k, outcome.k_states);
    EXPECT_EQ(plan.policy, sim::canonical_line(*job.policy));
    EXPECT_EQ(plan.preset, job.typed);
    EXPECT_EQ(plan.compress_at, outcome.compress_at);
    EXPECT_EQ(plan.sequence, job.sequence);
    std::int64_t kept = 0;
    for (const std::uint8_t state : plan.k[0][0]) kept += state != 0;
    EXPECT_GE(kept, outcome.kept_at_end.min);
    EXPECT_LE(kept, outcome.kept_at_end.max);
  }
  EXPECT_THROW((void)sweep("p.jsonl", {.resume = true, .plans = at("plans2.h5")}), Error);
}

TEST_F(Sweep, TheGridInTheFileRunsItAgain) {
  (void)sweep("a.jsonl");
  const Grid again = grid_from_runs(traces::read_results(at("a.jsonl")).runs, "a.jsonl");
  (void)run_sweep(run_, again, {.out = at("b.jsonl")}, nullptr, CancelToken());
  EXPECT_EQ(rows(at("a.jsonl")), rows(at("b.jsonl")));
  EXPECT_THROW((void)grid_from_runs({}, "none"), Error);
}

TEST_F(Sweep, AnEstimateCountsAndNamesProblems) {
  const SweepEstimate estimate = estimate_sweep(run_, grid_, {});
  EXPECT_EQ(estimate.jobs, 36);
  EXPECT_EQ(estimate.sequences, 4);
  EXPECT_GT(estimate.seconds, 0.0);
  EXPECT_GT(estimate.read_bytes, 0);
  EXPECT_TRUE(estimate.problems.empty());
}

}  // namespace
}  // namespace kvgrind::replay
