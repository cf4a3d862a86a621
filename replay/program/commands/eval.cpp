// kvgrind eval: the model re-runs with policies in its cache, on suites whose answers are known.
#include "replay/eval/eval.h"

#include <fmt/format.h>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/grid_options.h"
#include "replay/program/suite_options.h"
#include "replay/record/engine.h"
#include "replay/report/report.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string model, out, protocol = "blind", probes;
  std::string device = "auto", arithmetic = "f32";
  SuiteFlags suite;
  std::vector<std::string> policies, calibrations, budgets, removed, seeds;
  std::int64_t chunk = 512;
  bool compressed_prefill = false, resume = false, force = false, anonymous = false;
};

int run(const Asked& asked, Console& console) {
  GridFlags flags;
  flags.policies = asked.policies;
  flags.calibrations = asked.calibrations;
  flags.budgets = asked.budgets;
  flags.removed = asked.removed;
  flags.seeds = asked.seeds;
  flags.passes = true;  // they are run here
  const replay::Grid grid = grid_of(flags);
  const traces::ModelFolder model = traces::read_model_folder(asked.model);
  const std::vector<replay::Suite> suites = suites_of(asked.suite, model, asked.model);

  replay::EvalRequest request;
  const replay::PlacedModel placed = replay::place_model(model.config, model.weights, asked.device,
                                                         asked.arithmetic == "bf16" ? DType::bf16 : DType::f32);
  if (!placed.fallback.empty()) console.warn(placed.fallback + "\ngoing on with --device cpu");
  request.model = placed.model;
  request.policies = grid.policies;
  request.calibrations = grid.calibrations;
  request.amounts = grid.amounts;
  if (!grid.seeds.empty()) request.seeds = grid.seeds;
  request.closed.turns = replay::turns_from_name(asked.protocol);
  request.closed.compressed_prefill = asked.compressed_prefill;
  request.closed.prefill_chunk = asked.chunk;
  request.closed.probes = replay::parse_probes(asked.probes);
  if (model.tokenizer) request.closed.probes.text = replay::probe_text(*model.tokenizer);
  request.resume = asked.resume;
  request.force = asked.force;
  request.anonymous = asked.anonymous;
  request.provenance = command_provenance(asked.anonymous);
  request.provenance["device"] = placed.device;
  request.provenance["arithmetic"] = placed.device == "cpu" ? "f32" : asked.arithmetic;

  std::vector<traces::ResultRow> rows;
  std::int64_t failed = 0;
  for (std::size_t s = 0; s < suites.size(); ++s) {
    request.suite = suites[s];
    request.out = asked.out;
    if (s > 0) request.resume = true;  // the same file goes on
    replay::EvalOutcome outcome = replay::run_eval(request, console.progress(), console.cancel());
    console.end_progress();
    for (const std::string& message : outcome.messages) console.warn(message);
    failed += outcome.failed;
    rows.insert(rows.end(), outcome.rows.begin(), outcome.rows.end());
  }
  if (console.json()) {
    json::array list;
    for (const traces::ResultRow& row : rows) list.push_back(to_json(row));
    json::object body;
    body["results"] = std::move(list);
    body["device"] = placed.device;
    console.document("eval", std::move(body));
  } else {
    // One list a suite: tasks are different prompts and never one ranking.
    for (const replay::Suite& suite : suites) {
      std::vector<traces::ResultRow> of_suite;
      for (const traces::ResultRow& row : rows)
        if (const auto* name = row.more.if_contains("suite"); name && *name == json::value(suite.name))
          of_suite.push_back(row);
      console.data(fmt::format("suite {} ({} prompts)\n", suite.name, suite.prompts.size()));
      console.data(replay::print_report(replay::build_report(of_suite), replay::ReportFormat::table));
    }
  }
  if (!asked.out.empty()) console.note(fmt::format("{} results in {}", rows.size(), asked.out));
  return failed > 0 ? exit_code(Category::jobs_failed) : 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  options.text("--model", asked->model, "model folder (config.json, safetensors, tokenizer.json)", Need::required);
  add_suite_flags(options, asked->suite);
  options.texts("--policy", asked->policies, "preset, preset(…) or line; may be repeated; all = every preset",
                Need::required);
  options.texts("--calib", asked->calibrations, "what kvgrind fit wrote, for policies that need it; may be repeated");
  options.texts("--budget", asked->budgets, "what is kept: 0.2,512t,64MiB");
  options.texts("--removed", asked->removed, "what is removed, by upstream's arithmetic: 0.8");
  options.texts("--seed", asked->seeds, "seeds of the policies: 0,1,2");
  options.choice("--protocol", asked->protocol, {"blind", "aware", "repeat", "multi"},
                 "when the policy compresses and what is asked then");
  options.flag("--compressed-prefill", asked->compressed_prefill,
               "prefill itself reads the policy's cache, chunk by chunk");
  options.text("--probes", asked->probes,
               "how policies that read the context once more do: repeat=tokens a part, episode=episodes");
  options.text("--device", asked->device, "auto, cpu or cuda:N: where the model runs; plans are made on the CPU");
  options.choice("--arithmetic", asked->arithmetic, {"f32", "bf16"}, "on a CUDA device; the CPU computes in f32");
  options.integer("--chunk", asked->chunk, "tokens fed at once in prefill", 64);
  options.text("-o,--out", asked->out, "write results.jsonl here");
  options.flag("--resume", asked->resume, "keep the rows that are there, run the rest");
  options.flag("--force", asked->force, "replace an existing result file");
  options.flag("--anonymous", asked->anonymous, "no host, user, paths or command in the results");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command eval;
const Command eval{
    .name = "eval",
    .place = 52,
    .summary = "re-run a model with policies in its cache (closed loop) on a suite of prompts",
    .text =
        "Suites: needle, multi_needle, records, chains, copy, prose (built in, by seed), or a JSON file.\n"
        "Protocols: blind compresses after the context, aware after the question, repeat asks once more\n"
        "after compressing, multi asks all questions in one cache.",
    .examples = {"kvgrind eval --model traces/examples/tiny-3m --suite needle --prompts 2 --length 512 --policy snapkv "
                 "--policy random "
                 "--budget 0.5,0.2 -o eval.jsonl",
                 "kvgrind eval --model traces/examples/tiny-3m --suite records --prompts 1 --length 512 --policy "
                 "'h2o(variant=online)' "
                 "--budget 0.2 --protocol multi --json"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
