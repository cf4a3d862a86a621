// kvgrind report: ranked tables, the verdict, CSV and the Pareto figure of result files.
#include "replay/report/report.h"

#include <fmt/format.h>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/trust_option.h"
#include "replay/program/write_file.h"
#include "traces/results/results_file.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::vector<std::string> files, metrics, budgets;
  std::string format = "table", headline, protocol, pareto, pareto_x = "stored_frac", trust;
  std::int64_t resamples = 2000, seed = 1;
  bool force = false, strict = false;
};

int run(const Asked& asked, Console& console) {
  const traces::ResultsContent content = traces::read_results({asked.files.begin(), asked.files.end()});
  replay::ReportOptions options;
  options.headline = asked.headline;
  options.metrics = asked.metrics;
  options.budgets = asked.budgets;
  options.protocol = asked.protocol;
  options.resamples = asked.resamples;
  options.seed = static_cast<std::uint64_t>(asked.seed);
  replay::Report report = replay::build_report(content.rows, options);
  add_trust(report, asked.trust, {asked.files.begin(), asked.files.end()}, model_of(content));
  const std::string format = console.json() ? "json" : asked.format;
  if (!console.one_terminal() || (format != "table" && format != "md"))  // those say them too
    for (const std::string& warning : report.warnings) console.warn(warning);
  console.data(replay::print_report(report, replay::report_format_from_name(format)));
  if (!asked.pareto.empty()) {
    write_file(asked.pareto, replay::pareto_svg(report, {.x = asked.pareto_x, .y = {}, .title = {}}), asked.force);
    console.note(fmt::format("figure: {}", asked.pareto));
  }
  return asked.strict && !report.warnings.empty() ? exit_code(Category::threshold) : 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positionals("file", asked->files, "result files");
  options.choice("--format", asked->format, {"table", "csv", "json", "md"}, "of the output");
  options.text("--headline", asked->headline, "the metric that ranks; default predicted_dprob.answer, or the nearest there is");
  options.texts("--metric", asked->metrics, "further columns; may be repeated");
  options.texts("--budget", asked->budgets, "only this budget, as it was asked; may be repeated");
  options.choice("--protocol", asked->protocol, {"", "blind", "aware"}, "only this protocol");
  options.text("--pareto", asked->pareto, "write loss against bytes as SVG here");
  options.choice("--pareto-x", asked->pareto_x, {"kept_frac", "stored_frac", "touched_frac"}, "what the figure's x is");
  add_trust_flag(options, asked->trust);
  options.integer("--resamples", asked->resamples, "of the bootstrap over prompts", 1);
  options.integer("--seed", asked->seed, "of the bootstrap");
  options.flag("--force", asked->force, "replace an existing figure");
  options.flag("--strict", asked->strict, "exit 6 when there is any warning");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command report;
const Command report{.name = "report",
                     .place = 33,
                     .summary = "ranked tables with intervals, the verdict, CSV, Markdown, JSON and the Pareto figure",
                     .text = "Lists never mix policies that saw the question with those that did not.",
                     .examples = {"kvgrind report all.jsonl", "kvgrind report all.jsonl --format csv",
                                  "kvgrind report all.jsonl --budget 0.2 --pareto pareto.svg"},
                     .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
