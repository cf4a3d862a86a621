#include "replay/validate/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"
#include "replay/eval/eval.h"
#include "replay/open_loop/recorded_run.h"
#include "replay/record/record.h"
#include "replay/report/report.h"
#include "replay/sweep/sweep.h"
#include "traces/kvt/trace.h"
#include "traces/results/results_file.h"

namespace kvgrind::replay {

std::vector<TokenSequence> sequences_of(const Suite& suite, Turns turns, std::size_t begin, std::size_t end) {
  std::vector<TokenSequence> out;
  for (std::size_t p = begin; p < end; ++p) {
    const SuitePrompt& prompt = suite.prompts[p];
    const auto context = static_cast<std::int64_t>(prompt.context.size());
    const auto parent = static_cast<std::int64_t>(out.size());
    TokenSequence root;
    root.ids = prompt.context;
    root.segments = {{Role::context, 0, context}};
    root.spans = prompt.spans;
    out.push_back(std::move(root));
    TokenSequence fork;
    for (std::size_t q = 0; q < prompt.questions.size(); ++q) {
      const SuiteQuestion& question = prompt.questions[q];
      const bool one = turns == Turns::multi;
      if (!one) fork = {};
      fork.parent = parent;
      fork.fork_at = context;
      const auto at = [&] { return context + static_cast<std::int64_t>(fork.ids.size()); };
      const std::int64_t begins = at();
      fork.ids.insert(fork.ids.end(), question.question.begin(), question.question.end());
      const std::int64_t asked = at();
      fork.ids.insert(fork.ids.end(), question.answer.begin(), question.answer.end());
      if (asked > begins) fork.segments.push_back({Role::question, begins, asked});
      fork.segments.push_back({Role::answer, asked, at()});
      if (!one || q + 1 == prompt.questions.size()) out.push_back(fork);
    }
  }
  return out;
}

namespace {

using Key = std::pair<std::string, std::string>;  // policy as typed, amount

class Task {
 public:
  Task(const ValidateRequest& request, const Suite& suite, Progress* progress, const CancelToken& cancel)
      : request_(request), suite_(suite), progress_(progress), cancel_(cancel) {}

  TaskValidation run(std::vector<std::string>& left_out) {
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t begin = 0; begin < suite_.prompts.size(); begin += batch()) {
      const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (done_ > 0 && request_.stop_after_s > 0 && spent > request_.stop_after_s) {
        left_out.push_back(fmt::format("{}: {} of {} prompts, the time was up", suite_.name,
                                       suite_.prompts.size() - done_, suite_.prompts.size()));
        break;
      }
      const std::size_t end = std::min(suite_.prompts.size(), begin + batch());
      open_batch(begin, end);
      closed_batch(begin, end);
      done_ = end;
    }
    return cells(left_out);
  }

 private:
  std::size_t batch() const { return static_cast<std::size_t>(std::max<std::int64_t>(1, request_.batch_prompts)); }

  std::string task_name() const {
    return request_.turns == Turns::blind ? suite_.name : fmt::format("{}+{}", suite_.name, turns_name(request_.turns));
  }

  std::filesystem::path file(const std::string& name) const {
    std::string stem = task_name();
    std::replace_if(
        stem.begin(), stem.end(), [](char c) { return c == '/' || c == ' '; }, '_');
    return request_.folder / fmt::format("{}-{}", stem, name);
  }

  void open_batch(std::size_t begin, std::size_t end) {
    const auto rows_path = file(fmt::format("open-{}.jsonl", begin));
    const auto trace_path = file(fmt::format("{}.kvt", begin));
    const std::vector<TokenSequence> sequences = sequences_of(suite_, request_.turns, begin, end);
    const auto wanted = forks(begin, end) * static_cast<std::int64_t>(request_.policies.size() *
                                                                      request_.amounts.size() * request_.seeds.size());
    traces::ResultsContent there;
    if (std::filesystem::exists(rows_path)) there = traces::read_results(rows_path);
    if (static_cast<std::int64_t>(there.rows.size()) < wanted) {
      RecordJob job;
      job.model = request_.model;
      job.sequences = sequences;
      job.out = trace_path;
      record_what_is_asked(job);
      job.options.pooled_maps = false;
      job.options.force = true;
      std::filesystem::remove(trace_path);
      job.device = request_.device;
      (void)record(job, progress_, cancel_);
      Grid grid;
      grid.policies = request_.policies;
      grid.calibrations = request_.calibrations;
      grid.amounts = request_.amounts;
      grid.protocols = {request_.turns == Turns::aware ? Protocol::aware : Protocol::blind};
      grid.seeds = request_.seeds;
      SweepOptions options;
      options.resume = true;
      options.out = rows_path;
      traces::OpenOptions open;
      open.probe = false;  // our own file, written a moment ago
      const auto recorded = recorded_run(traces::Trace::open(trace_path, open));
      // A small file does not store W_O; the model is here.
      const auto projection = [this](std::int64_t layer) { return sim::output_projection(*request_.runtime, layer); };
      (void)run_sweep(with_output_projection(recorded, projection), grid, options, progress_, cancel_);
      std::filesystem::remove(trace_path);
      there = traces::read_results(rows_path);
    }
    // Sequence ids of this batch → prompts.
    std::map<std::int64_t, std::size_t> prompt_of;
    std::size_t p = begin;
    for (std::size_t s = 0; s < sequences.size(); ++s)
      if (sequences[s].parent < 0) prompt_of[static_cast<std::int64_t>(s)] = p++;
    for (traces::ResultRow& row : there.rows) {
      const auto it = prompt_of.find(row.context);
      if (it == prompt_of.end()) continue;
      open_[{row.preset, row.budget_asked}][it->second].push_back(std::move(row));
    }
  }

  // Every query where a policy asks for queries, and the passes over the context that policies read.
  void record_what_is_asked(RecordJob& job) const {
    job.options.queries = traces::QueryContent::window;
    for (const std::string& policy : request_.policies)
      for (const sim::Signal signal : sim::needed_signals(*sim::bind_policy(policy))) {
        if (signal == sim::Signal::queries || signal == sim::Signal::query_statistics)
          job.options.queries = traces::QueryContent::all;
        if (const auto kind = probe_kind(signal)) {
          job.probes.repeat |= *kind == ProbeKind::repeat;
          job.probes.reread |= *kind == ProbeKind::reread;
          job.probes.episode |= *kind == ProbeKind::episode;
        }
      }
  }

  std::int64_t forks(std::size_t begin, std::size_t end) const {
    std::int64_t n = 0;
    for (std::size_t p = begin; p < end; ++p)
      n += request_.turns == Turns::multi ? 1 : static_cast<std::int64_t>(suite_.prompts[p].questions.size());
    return n;
  }

  void closed_batch(std::size_t begin, std::size_t end) {
    EvalRequest eval;
    eval.model = request_.runtime;
    eval.suite = suite_;
    eval.calibrations = request_.calibrations;
    eval.amounts = request_.amounts;
    eval.seeds = request_.seeds;
    eval.out = file("closed.jsonl");
    eval.resume = true;
    eval.closed.kl = false;
    eval.closed.turns = request_.turns;
    eval.first_prompt = begin;
    eval.end_prompt = end;
    for (const std::string& policy : request_.policies) {
      const auto signals = sim::needed_signals(*sim::bind_policy(policy));
      if (std::find(signals.begin(), signals.end(), sim::Signal::future_queries) == signals.end())
        eval.policies.push_back(policy);
    }
    for (traces::ResultRow& row : run_eval(eval, progress_, cancel_).rows)
      closed_[{row.preset, row.budget_asked}][static_cast<std::size_t>(row.sequence)].push_back(std::move(row));
  }

  // Mean over the rows of one prompt (seeds, questions) of a value; NaN when none.
  template <class ValueOf>
  static double mean(const std::vector<traces::ResultRow>& rows, ValueOf&& value_of) {
    double sum = 0;
    std::int64_t n = 0;
    for (const traces::ResultRow& row : rows)
      if (const double x = value_of(row); !std::isnan(x)) {
        sum += x;
        ++n;
      }
    return n ? sum / static_cast<double>(n) : std::nan("");
  }

  static bool higher_is_better(const std::string& metric) {
    return metric.starts_with("recall") || metric.starts_with("span") || metric.find("overlap") != std::string::npos;
  }

  TaskValidation cells(std::vector<std::string>& left_out) {
    TaskValidation out;
    out.task = task_name();
    out.prompts = static_cast<std::int64_t>(done_);
    out.prose = suite_.prompts[0].task == "prose";
    std::set<std::string> methods, amounts, reported;
    double p_full = 0, p_count = 0;
    for (auto& [key, closed_prompts] : closed_) {
      const auto& open_prompts = open_[key];
      std::string problem;
      std::set<std::string> metrics;
      for (std::size_t p = 0; p < done_ && problem.empty(); ++p) {
        const auto open_rows = open_prompts.find(p);
        const auto closed_rows = closed_prompts.find(p);
        if (open_rows == open_prompts.end() || closed_rows == closed_prompts.end())
          problem = fmt::format("no rows for prompt {}", p);
        if (!problem.empty()) break;
        for (const std::vector<traces::ResultRow>* rows :
             {&std::as_const(open_rows->second), &std::as_const(closed_rows->second)})
          for (const traces::ResultRow& row : *rows)
            if (row.status != "ok") problem = row.message;
        if (!problem.empty()) break;
        for (const auto& [name, metric] : open_rows->second[0].metrics) metrics.insert(name);
      }
      if (!problem.empty()) {
        if (reported.insert(key.first).second)
          left_out.push_back(fmt::format("{}, {}: {}", suite_.name, key.first, problem));
        continue;
      }
      Cell cell;
      cell.method = key.first;
      cell.amount = key.second;
      const auto& asked = open_prompts.at(0).front().budget_keep;
      for (std::size_t p = 0; p < done_; ++p) {
        const auto& open_rows = open_prompts.at(p);
        const auto& closed_rows = closed_prompts.at(p);
        cell.truth.push_back(mean(closed_rows, [](const auto& row) { return row.metrics.at("dprob").value; }));
        p_full += mean(closed_rows, [](const auto& row) { return row.metrics.at("p_full_mean").value; });
        ++p_count;
        cell.figure["removed_bytes"].push_back(mean(open_rows, [](const auto& row) { return 1.0 - row.stored_frac; }));
        for (const std::string& name : metrics) {
          const bool flip = higher_is_better(name);
          cell.figure[flip ? "1-" + name : name].push_back(mean(open_rows, [&](const auto& row) {
            const auto it = row.metrics.find(name);
            return it == row.metrics.end() ? std::nan("") : flip ? 1.0 - it->second.value : it->second.value;
          }));
        }
      }
      const std::vector<double>& removed = cell.figure["removed_bytes"];
      const double stored =
          1 - std::accumulate(removed.begin(), removed.end(), 0.0) / static_cast<double>(removed.size());
      cell.over = asked && over_budget(stored, *asked);
      // A figure that is unknown for every prompt (no needle, no far keys) tells nothing.
      std::erase_if(cell.figure, [](const auto& figure) {
        return std::all_of(figure.second.begin(), figure.second.end(), [](double x) { return std::isnan(x); });
      });
      methods.insert(cell.method);
      amounts.insert(cell.amount);
      out.cells.push_back(std::move(cell));
    }
    out.methods = static_cast<std::int64_t>(methods.size());
    out.amounts = static_cast<std::int64_t>(amounts.size());
    out.truth_full = p_count > 0 ? p_full / p_count : std::nan("");
    AgreementOptions options;
    options.resamples = request_.resamples;
    if (out.prose) options.range = {0.003, 1.0};
    out.agreements = agreement(out.cells, options);
    out.decisions = decisions(out.cells);
    return out;
  }

  const ValidateRequest& request_;
  const Suite& suite_;
  Progress* progress_;
  const CancelToken& cancel_;
  std::size_t done_ = 0;  // prompts that both loops have seen
  std::map<Key, std::map<std::size_t, std::vector<traces::ResultRow>>> open_, closed_;
};

}  // namespace

ValidateOutcome run_validate(const ValidateRequest& request, Progress* progress, const CancelToken& cancel) {
  std::filesystem::create_directories(request.folder);
  ValidateOutcome out;
  const ModelCard& card = sim::model_config(*request.runtime).card;
  out.validation = {.model_name = card.name,
                    .model_hash = card.model_hash,
                    .command = request.command,
                    .headline = request.headline,
                    .null_figure = "removed_bytes",
                    .tasks = {}};
  for (const Suite& suite : request.suites)
    out.validation.tasks.push_back(Task(request, suite, progress, cancel).run(out.left_out));
  return out;
}

}  // namespace kvgrind::replay
