// Runs the jobs of a grid in parallel and appends one row per job, in job order, whatever the thread count.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "replay/open_loop/open_loop.h"
#include "replay/sweep/grid.h"
#include "traces/results/results_file.h"

namespace kvgrind::replay {

struct SweepOptions {
  Shard shard;
  bool resume = false;                   // keep the rows that are there, run the rest
  bool force = false;                    // replace an existing result file
  bool retry_errors = false;             // on resume: run jobs again whose row is an error (their row stays)
  std::filesystem::path out;             // results.jsonl
  std::filesystem::path plans;           // plans.h5, empty = not wanted
  json::object provenance;               // command and the like, for the run row
  bool anonymous = false;                // no host, user or paths in the run row
  std::int64_t cache_bytes = 2ll << 30;  // sequences kept in memory
  std::string after_interruption = "the same command with --resume goes on";  // told with Error(interrupted)
};

struct SweepOutcome {
  std::int64_t jobs = 0, done = 0, failed = 0, skipped = 0;  // skipped: there already
  std::vector<std::string> messages;                         // of failed jobs: "job 3 (…): …", at most 20
};

// One failing job never stops the rest: it becomes a row with status=error. Cancelled: everything finished is written,
// then Error(interrupted). `progress` may be null.
SweepOutcome run_sweep(std::shared_ptr<const RecordedRun> run, const Grid& grid, const SweepOptions& options,
                       Progress* progress, const CancelToken& cancel);

// What a sweep would do: jobs, measured queries, bytes to read, and a time estimate from one timed job of each kind of
// policy cost when `measure` is on.
struct SweepEstimate {
  std::int64_t jobs = 0, sequences = 0;
  std::int64_t read_bytes = 0, memory_bytes = 0;
  double seconds_per_job = 0, seconds = 0;  // modelled: from one timed job, over the threads there are
  std::vector<std::string> problems;        // jobs that cannot run, and why
};
SweepEstimate estimate_sweep(std::shared_ptr<const RecordedRun> run, const Grid& grid, const Shard& shard);

// The row of one finished job (also what Session and replay --json print).
traces::ResultRow result_row(const RecordedRun& run, const SweepJob& job, const OpenOutcome& outcome);
// Of program version and recording: ties result rows to run rows without a clock in them.
std::string provenance_id(const RecordedRun& run);
traces::ResultRow error_row(const RecordedRun& run, const SweepJob& job, const std::string& message);

// Shards into one file: run rows first, then one row a job, by job number. Merging again changes nothing. The same job
// with different results is Error(damaged); an error row gives way to a good one.
struct MergeOutcome {
  std::int64_t files = 0, rows = 0, duplicates = 0, failed = 0;
};
MergeOutcome merge_results(const std::vector<std::filesystem::path>& in, const std::filesystem::path& out, bool force);

}  // namespace kvgrind::replay
