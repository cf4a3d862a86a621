// kvgrind sweep: a grid of policies, budgets, sequences and seeds over one trace; sharded, resumable.
#include "replay/sweep/sweep.h"

#include <fmt/format.h>

#include <cstdlib>

#include "core/error.h"
#include "replay/metrics/metrics.h"
#include "replay/program/command.h"
#include "replay/program/grid_options.h"
#include "replay/program/open_run.h"
#include "replay/program/trust_option.h"
#include "replay/record/prompts.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string trace, model, out, grid, from, shard, plans, trust_file;
  GridFlags flags;
  bool force = false, resume = false, retry_errors = false, dry_run = false, list_jobs = false, trust = false;
  bool anonymous = false;
};

// --shard, else the array task of a SLURM job, else everything.
replay::Shard which_shard(const Asked& asked) {
  if (!asked.shard.empty()) return replay::parse_shard(asked.shard);
  const char* id = std::getenv("SLURM_ARRAY_TASK_ID");
  const char* count = std::getenv("SLURM_ARRAY_TASK_COUNT");
  if (!id || !count) return {};
  const char* least = std::getenv("SLURM_ARRAY_TASK_MIN");
  const std::int64_t first = least ? number_list(least, "SLURM_ARRAY_TASK_MIN").front() : 0;
  const std::int64_t index = number_list(id, "SLURM_ARRAY_TASK_ID").front() - first;
  return replay::parse_shard(fmt::format("{}/{}", index, count));
}

replay::Grid which_grid(const Asked& asked) {
  replay::Grid base;
  if (!asked.grid.empty()) base = replay::grid_from_text(replay::read_text_file(asked.grid), asked.grid);
  if (!asked.from.empty()) base = replay::grid_from_runs(traces::read_results(asked.from).runs, asked.from);
  return grid_of(asked.flags, std::move(base));
}

int print_estimate(const replay::SweepEstimate& estimate, Console& console) {
  if (console.json()) {
    json::object body;
    body["jobs"] = estimate.jobs;
    body["sequences"] = estimate.sequences;
    body["read_bytes"] = estimate.read_bytes;
    body["memory_bytes"] = estimate.memory_bytes;
    body["seconds_modelled"] = estimate.seconds;
    body["problems"] = json::array(estimate.problems.begin(), estimate.problems.end());
    console.document("sweep_estimate", std::move(body));
  } else {
    console.data(
        fmt::format("jobs       {}\nsequences  {}\nread       {}\nmemory     {}\ntime       {:.1f} s (modelled "
                    "from one timed job)\n",
                    estimate.jobs, estimate.sequences, bytes_text(static_cast<double>(estimate.read_bytes)),
                    bytes_text(static_cast<double>(estimate.memory_bytes)), estimate.seconds));
    for (const std::string& problem : estimate.problems) console.data(fmt::format("problem    {}\n", problem));
  }
  return estimate.problems.empty() ? 0 : exit_code(Category::jobs_failed);
}

int run(const Asked& asked, Console& console) {
  if (!asked.grid.empty() && !asked.from.empty())
    throw Error(Category::usage, {.doing = "reading the command line",
                                  .on = "kvgrind sweep",
                                  .found = "both --grid and --from",
                                  .expected = "one of them"});
  const replay::Grid grid = which_grid(asked);
  const replay::Shard shard = which_shard(asked);
  const auto trace = traces::Trace::open(asked.trace, {.probe = !asked.trust, .verify_checksums = true});
  const auto recorded = open_run(trace, asked.model);
  if (asked.list_jobs) {
    json::array jobs;
    for (const replay::SweepJob& job : replay::list_jobs(replay::resolve_grid(grid, *recorded))) {
      if (job.number % shard.count != shard.index) continue;
      const std::string text = replay::job_text(job);
      if (console.json())
        jobs.emplace_back(text);
      else
        console.data(text + "\n");
    }
    if (console.json()) console.document("sweep_jobs", {{"jobs", std::move(jobs)}});
    return 0;
  }
  if (asked.dry_run) return print_estimate(replay::estimate_sweep(recorded, grid, shard), console);
  if (asked.out.empty())
    throw Error(Category::usage, {.doing = "reading the command line",
                                  .on = "kvgrind sweep",
                                  .found = "no -o",
                                  .expected = "the result file to write"});

  require_other_files(asked.trace, {asked.out, asked.plans});
  replay::SweepOptions options;
  options.shard = shard;
  options.resume = asked.resume;
  options.retry_errors = asked.retry_errors;
  options.force = asked.force;
  options.out = asked.out;
  options.plans = asked.plans;
  options.anonymous = asked.anonymous;
  options.provenance = command_provenance(asked.anonymous);
  const TrustFound trust =
      trust_for(asked.trust_file, {asked.out, asked.trace}, trace->card().model_hash, replay::default_headline);
  const replay::SweepOutcome outcome = replay::run_sweep(recorded, grid, options, console.progress(), console.cancel());
  console.end_progress();
  for (const std::string& message : outcome.messages) console.warn(message);
  if (console.json()) {
    json::object body;
    body["file"] = asked.out;
    body["jobs"] = outcome.jobs;
    body["done"] = outcome.done;
    body["failed"] = outcome.failed;
    body["there_already"] = outcome.skipped;
    body["trust"] = trust.block;
    console.document("sweep", std::move(body));
  } else {
    console.note(fmt::format("{} jobs: {} done, {} there already, {} failed; `kvgrind report {}` shows them",
                             outcome.jobs, outcome.done, outcome.skipped, outcome.failed, asked.out));
    for (const std::string& line : trust.lines) console.note(line);
  }
  return outcome.failed > 0 ? exit_code(Category::jobs_failed) : 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("trace", asked->trace, "a trace");
  options.text("--model", asked->model, "the model's folder, for W_O where the trace is too small to hold it");
  options.text("--grid", asked->grid, "a JSON file with policies, budgets, protocols, sequences, seeds");
  options.text("--from", asked->from, "run again the grid that is stored in this result file");
  add_grid_flags(options, asked->flags);
  options.text("-o,--out", asked->out, "results.jsonl to write");
  options.text("--plans", asked->plans, "write what became of every token (HDF5) here");
  options.text("--shard", asked->shard, "i/n: only the jobs with number mod n = i; a SLURM array sets it by itself");
  add_trust_flag(options, asked->trust_file);
  options.flag("--resume", asked->resume, "keep the rows that are there, run the rest");
  options.flag("--retry-errors", asked->retry_errors, "with --resume: run failed jobs again");
  options.flag("--dry-run", asked->dry_run, "check everything, print jobs, bytes and a time estimate");
  options.flag("--list-jobs", asked->list_jobs, "print the jobs, one a line");
  options.flag("--force", asked->force, "replace existing files");
  options.flag("--trust", asked->trust, "skip the first open in a child process");
  options.flag("--anonymous", asked->anonymous, "no host, user, paths or command in the results");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command sweep;
const Command sweep{
    .name = "sweep",
    .place = 31,
    .summary = "run a grid of policies and budgets on a trace; resumable, in shards",
    .text =
        "Every finished job is a line in the result file at once. After an interruption the same command with "
        "--resume\ngoes on. Flags override the grid file.",
    .examples = {"kvgrind sweep run.kvt --policy snapkv --policy knorm --budget 0.5,0.2,0.1 --seq 1-4 -o all.jsonl",
                 "kvgrind sweep run.kvt --from all.jsonl --budget 0.3 -o more.jsonl",
                 "kvgrind sweep run.kvt --policy all --budget 0.2 --dry-run",
                 "kvgrind sweep run.kvt --policy knorm --budget 0.2 --seq 1-4 --shard 0/2 -o shard0.jsonl",
                 "kvgrind sweep run.kvt --policy knorm --budget 0.2 --seq 1-4 --shard 1/2 -o shard1.jsonl"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
