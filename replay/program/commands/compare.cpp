// kvgrind compare: two result files, job by job, with thresholds for a pipeline to fail on.
#include "replay/report/compare.h"

#include <fmt/format.h>

#include "core/error.h"
#include "replay/program/command.h"
#include "traces/results/results_file.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string a, b, format = "table";
  std::vector<std::string> fail_if;
};

int run(const Asked& asked, Console& console) {
  std::vector<replay::Threshold> thresholds;
  for (const std::string& text : asked.fail_if) thresholds.push_back(replay::parse_threshold(text));
  const replay::Comparison comparison =
      replay::compare_results(traces::read_results(asked.a).rows, traces::read_results(asked.b).rows, thresholds);
  console.data(
      replay::print_comparison(comparison, replay::report_format_from_name(console.json() ? "json" : asked.format)));
  for (const std::string& failure : comparison.failures) console.note("failed: " + failure);
  return comparison.failures.empty() ? 0 : exit_code(Category::threshold);
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.positional("a", asked->a, "results to compare with");
  options.positional("b", asked->b, "results to judge");
  options.texts("--fail-if", asked->fail_if, "exit 6 when true: 'D.answer>0.2', 'delta(D.answer)>0.02'; repeatable");
  options.choice("--format", asked->format, {"table", "csv", "json", "md"}, "of the output");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command compare;
const Command compare{.name = "compare",
                      .place = 34,
                      .summary = "hold two result files against each other; fail on a threshold",
                      .text = "",
                      .examples = {"kvgrind compare all.jsonl more.jsonl",
                                   "kvgrind compare all.jsonl all.jsonl --fail-if 'delta(D.answer)>0.02'"},
                      .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
