// kvgrind replay: policies at budgets on one trace, and what became of them.
#include <fmt/format.h>
#include <stdlib.h>

#include <filesystem>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/grid_options.h"
#include "replay/program/open_run.h"
#include "replay/program/trust_option.h"
#include "replay/report/report.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string trace, model, out, plans, trust_file;
  GridFlags grid;
  bool force = false, resume = false, trust = false, strict = false, anonymous = false;
};

// A folder of its own, gone with all it holds at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kvgrind-XXXXXX").string();
    if (!mkdtemp(name.data()))
      throw Error(Category::write, {.doing = "making",
                                    .on = name,
                                    .found = "no folder for results on the way",
                                    .expected = "a writable temporary folder",
                                    .next = "give -o FILE"});
    path_ = name;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

replay::SweepOutcome replay_all(std::shared_ptr<const replay::RecordedRun> recorded, const replay::Grid& grid,
                                const replay::SweepOptions& options, const Asked& asked, Console& console) {
  try {
    return replay::run_sweep(std::move(recorded), grid, options, console.progress(), console.cancel());
  } catch (const Error& error) {
    if (error.category() != Category::interrupted || !asked.out.empty()) throw;
    throw Error(Category::interrupted, {.doing = "replaying",
                                        .on = asked.trace,
                                        .found = error.fault().found,
                                        .usable = {},
                                        .next = "with -o FILE what is done is kept, and --resume goes on"});
  }
}

int run(const Asked& asked, Console& console) {
  const replay::Grid grid = grid_of(asked.grid);
  const auto trace = traces::Trace::open(asked.trace, {.probe = !asked.trust, .verify_checksums = true});
  require_other_files(asked.trace, {asked.out, asked.plans});
  std::optional<ScratchFolder> scratch;
  replay::SweepOptions options;
  options.force = asked.force;
  options.resume = asked.resume;
  options.anonymous = asked.anonymous;
  options.plans = asked.plans;
  options.provenance = command_provenance(asked.anonymous);
  options.out = asked.out;
  if (asked.resume && asked.out.empty())
    throw Error(Category::usage, {.doing = "reading the command line",
                                  .on = "kvgrind replay",
                                  .found = "--resume without -o",
                                  .expected = "the result file to go on with"});
  if (asked.out.empty()) options.out = scratch.emplace().path() / "results.jsonl";
  const replay::SweepOutcome outcome = replay_all(open_run(trace, asked.model), grid, options, asked, console);
  console.end_progress();
  for (const std::string& message : outcome.messages) console.warn(message);

  const std::vector<traces::ResultRow> rows = traces::read_results(options.out).rows;
  replay::Report report = replay::build_report(rows);
  add_trust(report, asked.trust_file, {asked.out.empty() ? asked.trace : asked.out, asked.trace},
            trace->card().model_hash);
  if (console.json() || !console.one_terminal())  // the table says them too
    for (const std::string& warning : report.warnings) console.warn(warning);
  if (console.json()) {
    json::object body;
    json::array list;
    for (const traces::ResultRow& row : rows) list.push_back(to_json(row));
    body["trace"] = trace->hash();
    body["results"] = std::move(list);
    body["trust"] = report.trust_block;
    console.document("replay", std::move(body));
  } else {
    console.data(replay::print_report(report, replay::ReportFormat::table));
  }
  if (!asked.out.empty()) console.note(fmt::format("{} results in {}", rows.size(), asked.out));
  if (outcome.failed > 0) return exit_code(Category::jobs_failed);
  return asked.strict && !report.warnings.empty() ? exit_code(Category::threshold) : 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("trace", asked->trace, "a trace");
  options.text("--model", asked->model, "the model's folder, for W_O where the trace is too small to hold it");
  add_grid_flags(options, asked->grid);
  options.text("-o,--out", asked->out, "write results.jsonl here");
  options.text("--plans", asked->plans, "write what became of every token (HDF5) here");
  add_trust_flag(options, asked->trust_file);
  options.flag("--resume", asked->resume, "keep the rows that are in -o, run the rest");
  options.flag("--force", asked->force, "replace existing files");
  options.flag("--strict", asked->strict, "exit 6 when there is any warning, such as a budget that was not met");
  options.flag("--trust", asked->trust, "skip the first open in a child process");
  options.flag("--anonymous", asked->anonymous, "no host, user, paths or command in the results");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command replay;
const Command replay{
    .name = "replay",
    .place = 30,
    .summary = "replay policies at budgets on a trace, and print what they lose",
    .text = "A policy is a preset (`kvgrind policies` lists them), with overrides in parentheses, or a line of slots.",
    .examples =
        {"kvgrind replay run.kvt --policy 'snapkv(window=32)' --budget 0.2",
         "kvgrind replay run.kvt --policy snapkv --policy knorm --policy random --budget 0.5,0.1 --seq 1-3 "
         "-o r.jsonl --plans plans.h5",
         "kvgrind replay run.kvt --policy 'score=key_norm budget=uniform select=topk(sink=4,recent=32) act=drop "
         "schedule=prefill_end read=all' --budget 64t --protocol aware --json"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
