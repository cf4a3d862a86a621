#include "replay/sweep/sweep.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <map>
#include <mutex>
#include <unordered_set>

#include "core/error.h"
#include "core/parallel.h"
#include "core/version.h"
#include "traces/results/plans_file.h"

namespace kvgrind::replay {
namespace {

constexpr std::size_t max_messages = 20;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string host_name() {
  char text[256] = {};
  return gethostname(text, sizeof text - 1) == 0 ? text : "unknown";
}

std::vector<SweepJob> jobs_of_shard(const Grid& resolved, const Shard& shard) {
  std::vector<SweepJob> out;
  for (SweepJob& job : list_jobs(resolved))
    if (job.number % shard.count == shard.index) out.push_back(std::move(job));
  return out;
}

// The sequences of the jobs, in batches whose data fits the limit together (at least one each).
std::vector<std::vector<std::int64_t>> batches(const RecordedRun& run, const std::vector<SweepJob>& jobs,
                                               std::int64_t limit) {
  std::vector<std::int64_t> sequences;
  for (const SweepJob& job : jobs)
    if (std::find(sequences.begin(), sequences.end(), job.sequence) == sequences.end())
      sequences.push_back(job.sequence);
  std::vector<std::vector<std::int64_t>> out;
  std::int64_t held = 0;
  for (const std::int64_t sequence : sequences) {
    const std::int64_t bytes = SequenceData::estimated_bytes(run, sequence);
    if (out.empty() || held + bytes > limit) {
      out.emplace_back();
      held = 0;
    }
    out.back().push_back(sequence);
    held += bytes;
  }
  return out;
}

// A sequence's data, or why it cannot be replayed: then each of its jobs fails with that.
struct Loaded {
  std::unique_ptr<const SequenceData> data;
  std::string problem;
};

Loaded load(const std::shared_ptr<const RecordedRun>& run, std::int64_t sequence, const CancelToken& cancel) {
  try {
    return {std::make_unique<const SequenceData>(run, sequence, SequenceData::reference_limit_bytes, cancel), {}};
  } catch (const std::exception& error) {
    return {nullptr, error.what()};
  }
}

traces::JobPlan job_plan(const SweepJob& job, OpenOutcome& outcome) {
  traces::JobPlan plan;
  plan.policy = sim::canonical_line(*job.policy);
  plan.preset = job.typed;
  if (job.amount.kind == sim::Amount::Kind::fraction) plan.keep = job.amount.value;
  if (job.amount.kind == sim::Amount::Kind::removed) plan.removed = job.amount.value;
  plan.compress_at = outcome.compress_at;
  plan.sequence = job.sequence;
  plan.k = std::move(outcome.k_states);
  plan.v = std::move(outcome.v_states);
  return plan;
}

// Finished jobs go out in job order, whichever thread finished them.
class OrderedOutput {
 public:
  OrderedOutput(traces::ResultsWriter& rows, traces::PlansFile* plans, SweepOutcome& outcome, Progress* progress)
      : rows_(rows), plans_(plans), outcome_(outcome), progress_(progress) {}

  void begin_batch() { next_ = 0; }
  void finished(std::size_t index, traces::ResultRow row, std::optional<traces::JobPlan> plan) {
    const std::lock_guard lock(mutex_);
    waiting_[index] = {std::move(row), std::move(plan)};
    for (auto it = waiting_.find(next_); it != waiting_.end(); it = waiting_.find(next_)) {
      const auto& [ready, ready_plan] = it->second;
      rows_.write(ready);
      if (plans_ && ready_plan) plans_->write(ready.job, *ready_plan);
      ++outcome_.done;
      if (ready.status != "ok") {
        ++outcome_.failed;
        if (outcome_.messages.size() < max_messages)
          outcome_.messages.push_back(fmt::format("job {} ({}, budget {}, sequence {}): {}", ready.job, ready.preset,
                                                  ready.budget_asked, ready.sequence, ready.message));
      }
      waiting_.erase(it);
      ++next_;
    }
    if (progress_) progress_->update("replay", outcome_.skipped + outcome_.done, outcome_.jobs);
  }

 private:
  std::mutex mutex_;
  std::size_t next_ = 0;
  std::map<std::size_t, std::pair<traces::ResultRow, std::optional<traces::JobPlan>>> waiting_;
  traces::ResultsWriter& rows_;
  traces::PlansFile* plans_;
  SweepOutcome& outcome_;
  Progress* progress_;
};

struct Finished {
  traces::ResultRow row;
  std::optional<traces::JobPlan> plan;
};

Finished run_job(const RecordedRun& run, const SweepJob& job, const Loaded& loaded, bool plans,
                 const CancelToken& cancel) {
  if (!loaded.data) return {error_row(run, job, loaded.problem), std::nullopt};
  try {
    OpenOutcome outcome =
        run_open(*loaded.data, {.policy = job.policy, .amount = job.amount, .protocol = job.protocol, .seed = job.seed},
                 {.token_states = plans, .cancel = cancel});
    Finished out{result_row(run, job, outcome), std::nullopt};
    if (plans) out.plan = job_plan(job, outcome);
    return out;
  } catch (const std::exception& error) {
    cancel.throw_if_cancelled();  // a job that was stopped has not failed
    return {error_row(run, job, error.what()), std::nullopt};
  }
}

json::object run_row(const RecordedRun& run, const Grid& resolved, const SweepOptions& options, std::int64_t jobs) {
  json::object row{{"type", "run"},
                   {"schema", 1},
                   {"event", "start"},
                   {"tool", "kvgrind"},
                   {"version", version()},
                   {"git_hash", git_hash()},
                   {"provenance", provenance_id(run)},
                   {"trace", run.hash()},
                   {"model_hash", run.card().model_hash},
                   {"grid", grid_to_json(resolved)},
                   {"shard", fmt::format("{}/{}", options.shard.index, options.shard.count)},
                   {"jobs", jobs},
                   {"threads", thread_count()},
                   {"started_utc", utc_now()}};
  if (!options.anonymous) row["host"] = host_name();
  for (const auto& [key, value] : options.provenance) row[key] = value;
  return row;
}

}  // namespace

SweepOutcome run_sweep(std::shared_ptr<const RecordedRun> run, const Grid& grid, const SweepOptions& options,
                       Progress* progress, const CancelToken& cancel) {
  if (options.resume && !options.plans.empty())
    throw Error(Category::usage, {.doing = "resuming a sweep",
                                  .on = options.plans.string(),
                                  .found = "a plans file asked for",
                                  .expected = "result rows alone",
                                  .next = "run without --resume to write plans of every job"});
  const Grid resolved = resolve_grid(grid, *run);
  std::vector<SweepJob> jobs = jobs_of_shard(resolved, options.shard);
  SweepOutcome outcome;
  outcome.jobs = static_cast<std::int64_t>(jobs.size());

  std::error_code ignored;
  if (options.resume && std::filesystem::exists(options.out, ignored)) {
    std::unordered_set<std::string> there;
    for (const traces::ResultRow& row : traces::read_results(options.out).rows)
      if (row.status == "ok" || !options.retry_errors) there.insert(traces::job_key(row));
    std::erase_if(jobs, [&](const SweepJob& job) { return there.contains(traces::job_key(error_row(*run, job, ""))); });
    outcome.skipped = outcome.jobs - static_cast<std::int64_t>(jobs.size());
  }
  using Mode = traces::ResultsWriter::Mode;
  traces::ResultsWriter rows(options.out, options.resume ? Mode::resume : options.force ? Mode::replace : Mode::create);
  std::optional<traces::PlansFile> plans;
  if (!options.plans.empty()) plans.emplace(options.plans, options.force);
  const auto start = std::chrono::steady_clock::now();
  rows.write(run_row(*run, resolved, options, outcome.jobs));

  OrderedOutput output(rows, plans ? &*plans : nullptr, outcome, progress);
  for (const std::vector<std::int64_t>& batch : batches(*run, jobs, options.cache_bytes)) {
    if (cancel.cancelled()) break;
    std::map<std::int64_t, Loaded> loaded;
    for (const std::int64_t sequence : batch) {
      if (progress)
        progress->update("load", static_cast<std::int64_t>(loaded.size()), static_cast<std::int64_t>(batch.size()));
      if (cancel.cancelled()) break;
      loaded.emplace(sequence, load(run, sequence, cancel));
    }
    if (cancel.cancelled()) break;
    std::vector<const SweepJob*> here;
    for (const SweepJob& job : jobs)
      if (loaded.contains(job.sequence)) here.push_back(&job);
    output.begin_batch();
    // Workers take jobs in order, so what waits for an earlier job to be written is at most a job per thread.
    std::atomic<std::size_t> next = 0;
    std::atomic<bool> stop = false;
    parallel_for(std::min<std::int64_t>(thread_count(), static_cast<std::int64_t>(here.size())), [&](std::int64_t) {
      while (!stop && !cancel.cancelled()) {
        const std::size_t index = next++;
        if (index >= here.size()) return;
        try {
          Finished finished = run_job(*run, *here[index], loaded.at(here[index]->sequence), plans.has_value(), cancel);
          output.finished(index, std::move(finished.row), std::move(finished.plan));
        } catch (...) {  // cannot write: the others stop as well
          if (cancel.cancelled()) return;
          stop = true;
          throw;
        }
      }
    });
  }
  if (!cancel.cancelled() && plans) plans->close();
  const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  rows.write(json::object{{"type", "run"},
                          {"schema", 1},
                          {"event", cancel.cancelled() ? "interrupted" : "end"},
                          {"done", outcome.done},
                          {"failed", outcome.failed},
                          {"skipped", outcome.skipped},
                          {"wall_s", wall_s}});
  rows.close();
  if (cancel.cancelled())
    throw Error(Category::interrupted, {.doing = "sweeping",
                                        .on = options.out.string(),
                                        .found = fmt::format("an interruption after {} of {} jobs",
                                                             outcome.skipped + outcome.done, outcome.jobs),
                                        .usable = "every finished job is in the file",
                                        .next = options.after_interruption});
  return outcome;
}

SweepEstimate estimate_sweep(std::shared_ptr<const RecordedRun> run, const Grid& grid, const Shard& shard) {
  const Grid resolved = resolve_grid(grid, *run);
  const std::vector<SweepJob> jobs = jobs_of_shard(resolved, shard);
  SweepEstimate out;
  out.jobs = static_cast<std::int64_t>(jobs.size());
  const ModelCard& card = run->card();
  std::map<std::int64_t, std::int64_t> bytes;
  for (const SweepJob& job : jobs) {
    if (bytes.contains(job.sequence)) continue;
    const std::int64_t tokens = find_sequence(*run, job.sequence).tokens;
    bytes[job.sequence] = SequenceData::estimated_bytes(*run, job.sequence);
    out.memory_bytes += bytes[job.sequence];
    out.read_bytes +=
        tokens * card.layers * (2 * card.kv_heads + card.query_heads) * card.head_dim * size_bytes(card.dtype);
  }
  out.sequences = static_cast<std::int64_t>(bytes.size());
  if (jobs.empty()) return out;
  // One timed job per policy, on the first sequence; the rest is proportion.
  const Loaded loaded = load(run, jobs.front().sequence, {});
  if (!loaded.data) {
    out.problems.push_back(loaded.problem);
    return out;
  }
  std::map<std::string, double> seconds_of;
  for (const SweepJob& job : jobs) {
    if (seconds_of.contains(job.typed)) continue;
    const auto start = std::chrono::steady_clock::now();
    const Finished finished = run_job(*run, job, loaded, false, {});
    if (finished.row.status != "ok") out.problems.push_back(fmt::format("{}: {}", job.typed, finished.row.message));
    seconds_of[job.typed] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  for (const SweepJob& job : jobs) out.seconds += seconds_of[job.typed];
  out.seconds_per_job = out.seconds / static_cast<double>(jobs.size());
  out.seconds /= static_cast<double>(std::min<std::int64_t>(thread_count(), out.jobs));
  return out;
}

}  // namespace kvgrind::replay
