// kvgrind demo: the embedded model recorded on the example prompts, every preset at eight budgets, ranked.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/examples.h"
#include "replay/program/grid_options.h"
#include "replay/program/write_file.h"
#include "replay/record/prompts.h"
#include "replay/record/record.h"
#include "replay/report/report.h"
#include "replay/sweep/sweep.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string out = "demo-out", examples;
  std::vector<std::string> policies;
  std::string budgets = "0.5,0.3,0.2,0.15,0.1,0.07,0.05,0.03";
  bool force = false;
};

std::filesystem::path examples_folder(const Asked& asked) {
  const std::filesystem::path found = asked.examples.empty() ? find_examples() : std::filesystem::path(asked.examples);
  if (!found.empty()) return found;
  throw Error(Category::missing, {.doing = "looking for the embedded example",
                                  .on = "traces/examples",
                                  .found = "nothing",
                                  .expected = "the folder with tiny-3m and prompts",
                                  .next = "run from the source tree, or give --examples DIR"});
}

void make_folder(const std::filesystem::path& folder, bool force) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed || !std::filesystem::is_directory(folder))
    throw Error(Category::write, {.doing = "making the folder",
                                  .on = folder.string(),
                                  .found = failed ? failed.message() : "something that is no folder",
                                  .expected = "a folder to write into"});
  if (!force && !std::filesystem::is_empty(folder))
    throw Error(Category::write, {.doing = "writing the demo into",
                                  .on = folder.string(),
                                  .found = "files from before",
                                  .expected = "an empty folder",
                                  .next = "--force replaces them"});
}

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count(); }

 private:
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

// The example contexts, needles and prose mixed, one question each: intervals are over contexts, so more of those tell
// more than more questions. The more policies, the fewer contexts, to keep the demo short on any number of presets.
std::vector<replay::TextPrompt> example_prompts(const std::filesystem::path& examples, std::size_t policies) {
  std::vector<replay::TextPrompt> needles, prose, mixed;
  for (const auto& [name, list] : {std::pair{"needle.json", &needles}, std::pair{"prose.json", &prose}}) {
    const std::filesystem::path file = examples / "prompts" / name;
    *list = replay::parse_text_prompts(replay::read_text_file(file), file.string());
  }
  for (std::size_t i = 0; i < needles.size(); ++i) {
    mixed.push_back(std::move(needles[i]));
    if (i % 3 == 1 && i / 3 < prose.size()) mixed.push_back(std::move(prose[i / 3]));
  }
  constexpr std::size_t most_pairs = 270;  // of a policy and a context: 35 s on two cores
  mixed.resize(std::min(mixed.size(), std::max<std::size_t>(4, most_pairs / std::max<std::size_t>(policies, 1))));
  for (replay::TextPrompt& prompt : mixed) prompt.questions.resize(1);
  return mixed;
}

void record_examples(const std::filesystem::path& examples, const std::filesystem::path& out, std::size_t policies,
                     Console& console) {
  const traces::ModelFolder model = traces::read_model_folder(examples / "tiny-3m");
  if (!model.tokenizer)
    throw Error(Category::missing, {.doing = "reading",
                                    .on = (examples / "tiny-3m").string(),
                                    .found = "no tokenizer.json",
                                    .expected = "the example model whole"});
  const std::vector<replay::TextPrompt> prompts = example_prompts(examples, policies);
  replay::RecordJob job;
  job.model = &model;
  job.sequences = replay::sequences_of(prompts, *model.tokenizer, 0);
  job.out = out;
  job.options.force = true;
  job.provenance = command_provenance(false);
  const Stopwatch watch;
  const replay::RecordOutcome outcome = replay::record(job, console.progress(), console.cancel());
  console.end_progress();
  console.note(fmt::format("recorded tiny-3m on {} contexts, {} tokens, in {:.1f} s", prompts.size(), outcome.rows,
                           watch.seconds()));
}

int run(const Asked& asked, Console& console) {
  const std::filesystem::path examples = examples_folder(asked);
  const std::filesystem::path folder = asked.out;
  make_folder(folder, asked.force);
  const Stopwatch watch;
  const std::filesystem::path trace_file = folder / "demo.kvt", results_file = folder / "results.jsonl";
  GridFlags flags;
  flags.policies = asked.policies.empty() ? std::vector<std::string>{"all"} : asked.policies;
  flags.budgets = {asked.budgets};
  const replay::Grid grid = grid_of(flags);
  record_examples(examples, trace_file, grid.policies.size(), console);
  replay::SweepOptions options;
  options.out = results_file;
  options.force = true;
  options.after_interruption = "`kvgrind report` shows them; the same command with --force begins anew";
  options.provenance = command_provenance(false);
  const auto trace = traces::Trace::open(trace_file);
  const Stopwatch sweep_watch;
  const replay::SweepOutcome outcome =
      replay::run_sweep(replay::recorded_run(trace), grid, options, console.progress(), console.cancel());
  console.end_progress();
  for (const std::string& message : outcome.messages) console.warn(message);
  console.note(fmt::format("replayed {} jobs in {:.1f} s", outcome.done, sweep_watch.seconds()));

  const replay::Report report = replay::build_report(traces::read_results(results_file).rows);
  for (const std::string& warning : report.warnings) console.detail("warning: " + warning);
  const std::string table = replay::print_report(report, replay::ReportFormat::table);
  write_file(folder / "report.txt", table, true);
  write_file(folder / "report.csv", replay::print_report(report, replay::ReportFormat::csv), true);
  write_file(folder / "report.md", replay::print_report(report, replay::ReportFormat::md), true);
  write_file(folder / "pareto.svg", replay::pareto_svg(report, {.title = "tiny-3m on the example prompts"}), true);
  if (console.json()) {
    console.data(replay::print_report(report, replay::ReportFormat::json));
  } else {
    console.data(table + "\n" + replay::verdict(report) + "\n");
  }
  console.note(
      fmt::format("in {:.0f} s: demo.kvt, results.jsonl, report.txt, report.csv, report.md and pareto.svg in {}",
                  watch.seconds(), std::filesystem::absolute(folder).lexically_normal().string()));
  return outcome.failed > 0 ? exit_code(Category::jobs_failed) : 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.text("-o,--out", asked->out, "the folder to write into");
  options.texts("--policy", asked->policies, "only this policy; may be repeated; default: every preset");
  options.text("--budget", asked->budgets, "what is kept, a comma list");
  options.text("--examples", asked->examples, "the folder with tiny-3m and prompts, when it is not found");
  options.flag("--force", asked->force, "replace what an earlier demo left");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command demo;
const Command demo{
    .name = "demo",
    .place = 1,
    .summary = "record the embedded model and rank every preset at eight budgets",
    .text = "",
    .examples = {"kvgrind demo -o demo-out",
                 "kvgrind demo -o short-demo --policy snapkv --policy knorm --policy random --budget 0.1"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
