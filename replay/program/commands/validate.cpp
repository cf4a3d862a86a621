// kvgrind validate: how well the open loop predicts the closed loop, on this model.
#include "replay/validate/validate.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/grid_options.h"
#include "replay/program/suite_options.h"
#include "replay/program/write_file.h"
#include "replay/record/engine.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string model, folder, headline = replay::default_headline, protocol = "blind";
  std::string device = "auto";
  SuiteFlags suite;
  std::vector<std::string> policies, calibrations, budgets, removed, seeds;
  std::int64_t batch = 10, resamples = 1000, minutes = 0;
};

int run(const Asked& asked, Console& console) {
  GridFlags flags;
  flags.policies = asked.policies;
  flags.calibrations = asked.calibrations;
  flags.budgets = asked.budgets;
  flags.removed = asked.removed;
  flags.seeds = asked.seeds;
  const replay::Grid grid = grid_of(flags);
  const traces::ModelFolder model = traces::read_model_folder(asked.model);
  replay::ValidateRequest request;
  request.model = &model;
  const replay::PlacedModel placed = replay::place_model(model.config, model.weights, asked.device);
  if (!placed.fallback.empty()) console.warn(placed.fallback + "\ngoing on with --device cpu");
  request.runtime = placed.model;
  request.device = placed.device;
  request.suites = suites_of(asked.suite, model, asked.model);
  request.policies = grid.policies;
  request.calibrations = grid.calibrations;
  request.amounts = grid.amounts;
  if (!grid.seeds.empty()) request.seeds = grid.seeds;
  request.folder = asked.folder;
  request.turns = replay::turns_from_name(asked.protocol);
  request.batch_prompts = asked.batch;
  request.stop_after_s = 60.0 * static_cast<double>(asked.minutes);
  request.resamples = asked.resamples;
  request.headline = asked.headline;
  request.command = fmt::format("{}", fmt::join(typed_command(), " "));
  const replay::ValidateOutcome outcome = replay::run_validate(request, console.progress(), console.cancel());
  console.end_progress();
  for (const std::string& text : outcome.left_out) console.warn("left out: " + text);

  const std::filesystem::path folder = asked.folder;
  const std::string report = replay::validation_markdown(outcome.validation);
  write_file(folder / "report.md", report, true);
  write_file(folder / "agreement.csv", replay::validation_csv(outcome.validation), true);
  write_file(folder / "cells.csv", replay::validation_cells_csv(outcome.validation), true);
  write_file(folder / "scatter.svg", replay::validation_svg(outcome.validation), true);
  json::value block = replay::trust_block(outcome.validation);
  block.get_object()["measured"] = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)));
  write_file(folder / "trust.json", json_text(block) + "\n", true);
  if (console.json())
    console.document("validate", block.get_object());
  else
    console.data(report);
  console.note(fmt::format("report.md, agreement.csv, cells.csv, scatter.svg and trust.json in {}", asked.folder));
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.text("--model", asked->model, "model folder", Need::required);
  add_suite_flags(options, asked->suite);
  options.texts("--policy", asked->policies, "preset, preset(…) or line; may be repeated; all = every preset",
                Need::required);
  options.texts("--calib", asked->calibrations, "what kvgrind fit wrote, for policies that need it; may be repeated");
  options.texts("--budget", asked->budgets, "what is kept: 0.2,512t,64MiB");
  options.texts("--removed", asked->removed, "what is removed, by upstream's arithmetic");
  options.texts("--seed", asked->seeds, "seeds of the policies");
  options.text("-o,--out", asked->folder, "folder for rows and reports; an interrupted run goes on there",
               Need::required);
  options.text("--device", asked->device, "auto, cpu or cuda:N: where the model runs, recorded and in the closed loop");
  options.text("--headline", asked->headline, "the figure shown first");
  options.choice("--protocol", asked->protocol, {"blind", "aware", "multi"},
                 "blind: each question on its own copy; aware: compressed after the question; multi: all questions in "
                 "one cache, one after another");
  options.integer("--minutes", asked->minutes, "begin no batch later than that; the report is on the prompts done", 0);
  options.integer("--batch", asked->batch, "prompts recorded at once", 1);
  options.integer("--resamples", asked->resamples, "bootstrap resamples over prompts", 10);
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command validate;
const Command validate{
    .name = "validate",
    .place = 54,
    .summary = "measure how well the open loop predicts the closed loop on a model",
    .text =
        "Runs both loops over one grid of policies, budgets and prompts and correlates every open-loop figure with\n"
        "the loss of probability on the right token, with intervals, the null and the ceiling.",
    .examples = {"kvgrind validate --model traces/examples/tiny-3m --suite needle --prompts 3 --length 256 --policy "
                 "snapkv --policy knorm "
                 "--policy random --policy window --budget 0.5,0.2 --resamples 50 -o trust"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
