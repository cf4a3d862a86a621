// kvgrind fit: learns what a calibrated method needs from traces.
#include "replay/fit/fit.h"

#include <fmt/format.h>

#include "core/error.h"
#include "replay/program/command.h"
#include "replay/program/open_run.h"
#include "traces/calibration/calibration_file.h"

namespace kvgrind::program {
namespace {

struct Asked {
  std::string method, out, score = replay::FitRequest{}.score;
  std::vector<std::string> traces;
  double held_out = 0.25, ridge = 1;
  std::int64_t hidden = 0, epochs = 60, sinks = 16, recent = 64, vectors = 8;
  bool force = false, trust = false;
};

int run(const Asked& asked, Console& console) {
  replay::FitRequest request;
  request.method = asked.method;
  request.held_out = asked.held_out;
  request.hidden = asked.hidden;
  request.epochs = asked.epochs;
  request.ridge = asked.ridge;
  request.sinks = asked.sinks;
  request.recent = asked.recent;
  request.score = asked.score;
  request.vectors = asked.vectors;
  std::string names;
  for (const std::string& path : asked.traces) {
    require_other_files(path, {asked.out});
    const auto trace = traces::Trace::open(path, {.probe = !asked.trust, .verify_checksums = true});
    names += (names.empty() ? "" : " ") + trace->hash();
    request.runs.push_back(replay::recorded_run(trace));
  }
  Calibration fitted = replay::fit(request);
  fitted.texts["traces"] = names;
  traces::write_calibration(asked.out, fitted, asked.force);
  if (console.json()) {
    json::object numbers;
    for (const auto& [name, number] : fitted.numbers) numbers[name] = number;
    console.document("fit", {{"method", fitted.method},
                             {"file", asked.out},
                             {"hash", fitted.hash()},
                             {"model", fitted.model},
                             {"error", fitted.texts.at("error")},
                             {"numbers", std::move(numbers)}});
    return 0;
  }
  console.data(fmt::format("{}: held-out error {:.4f} ({} sequences), fitted {:.4f} ({} sequences): {}\n",
                           fitted.method, fitted.number("held_out_error", 0), fitted.number("sequences_held_out", 0),
                           fitted.number("fitted_error", 0), fitted.number("sequences_fitted", 0),
                           fitted.texts.at("error")));
  console.note(fmt::format("use it with --calib {}", asked.out));
  return 0;
}

Action declare(Options& options) {
  auto asked = std::make_shared<Asked>();
  std::vector<std::string> names;
  for (const replay::FitMethod& method : replay::fit_methods()) names.emplace_back(method.name);
  options.positional_choice("method", asked->method, names, "what to fit");
  options.positionals("trace", asked->traces, "traces of one model, with queries of every token", Need::required);
  options.text("-o,--out", asked->out, "the calibration to write (HDF5)", Need::required);
  options.number("--held-out", asked->held_out, "share of the prompts that is held out, at most 0.5");
  options.integer("--hidden", asked->hidden, "locret: width of the inner layer; 0 = linear");
  options.integer("--epochs", asked->epochs, "locret with an inner layer, lookaheadkv, lococo: passes over the tokens",
                  1);
  options.number("--ridge", asked->ridge, "locret, attention_gate: penalty on standardised weights");
  options.integer("--sinks", asked->sinks, "duo: first tokens of a streaming head");
  options.integer("--recent", asked->recent, "duo: last tokens of a streaming head");
  options.text("--score", asked->score, "lukv: the score that ranks tokens, with its parameters");
  options.integer("--vectors", asked->vectors, "lookaheadkv: queries of each head; lococo: mixed slots", 1);
  options.flag("--force", asked->force, "replace an existing file");
  options.flag("--trust", asked->trust, "open traces without the probe in a child process");
  return [asked](Console& console) { return run(*asked, console); };
}

}  // namespace

namespace rows {
extern const Command fit;
const Command fit{
    .name = "fit",
    .place = 36,
    .summary = "learn from traces what a calibrated method needs",
    .text =
        "qfilters, triattention: moments of queries. duo: what heads lose by streaming. locret,\n"
        "attention_gate: future attention from a token's own queries, keys and values. lukv: what heads lose\n"
        "at every budget. prefixkv: where layers have their attention. razor: heads that look at what followed\n"
        "before, from text that repeats itself. compresskv: heads that find needles again. uncomp: how many\n"
        "directions queries fill. lookaheadkv: queries that stand for an answer. lococo: filters that mix.\n"
        "Some prompts are held out; the error on them is printed and stored.",
    .examples = {"kvgrind fit qfilters run.kvt -o qfilters.h5", "kvgrind fit locret run.kvt -o locret.h5",
                 "kvgrind fit duo run.kvt --sinks 4 --recent 64 -o duo.h5"},
    .declare = declare};
}  // namespace rows

}  // namespace kvgrind::program
