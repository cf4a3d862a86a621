#include "replay/eval/eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/version.h"
#include "replay/sweep/grid.h"
#include "traces/results/results_file.h"

namespace kvgrind::replay {
namespace {

struct Job {
  std::int64_t number = 0;
  std::size_t prompt = 0;
  std::string typed;
  EvalJob job;
};

// Prompt-major: a prompt's jobs stand together, because they share its prefix.
std::vector<Job> list(const EvalRequest& request) {
  std::vector<sim::PolicyPtr> bound;
  for (const std::string& text : request.policies) bound.push_back(calibrated_policy(text, request.calibrations));
  std::vector<Job> out;
  for (std::size_t p = 0; p < request.suite.prompts.size(); ++p)
    for (std::size_t i = 0; i < bound.size(); ++i)
      for (const sim::Amount& amount : request.amounts)
        for (const std::uint64_t seed : request.seeds)
          out.push_back({static_cast<std::int64_t>(out.size()), p, request.policies[i], {bound[i], amount, seed}});
  std::erase_if(out,
                [&](const Job& job) { return job.prompt < request.first_prompt || job.prompt >= request.end_prompt; });
  return out;
}

traces::ResultRow asked(const EvalRequest& request, const Job& job, const std::string& hash) {
  traces::ResultRow row;
  row.loop = "closed";
  row.job = job.number;
  row.trace = hash;
  row.sequence = row.context = static_cast<std::int64_t>(job.prompt);
  row.policy = sim::canonical_line(*job.job.policy);
  row.hash = sim::policy_hash(*job.job.policy);
  row.preset = job.typed;
  row.budget_asked = job.job.amount.text();
  if (job.job.amount.kind == sim::Amount::Kind::fraction) row.budget_keep = job.job.amount.value;
  if (job.job.amount.kind == sim::Amount::Kind::removed) row.budget_removed = job.job.amount.value;
  row.protocol = std::string(turns_name(request.closed.turns));
  if (request.closed.compressed_prefill) row.protocol += "+compressed_prefill";
  row.seed = job.job.seed;
  row.more["suite"] = request.suite.name;
  row.more["task"] = request.suite.prompts[job.prompt].task;
  return row;
}

void fill(traces::ResultRow& row, const JobOutcome& outcome, Turns turns, std::int64_t context) {
  row.kept_tokens_mean = outcome.kept_mean;
  row.kept_tokens_min = outcome.kept_min;
  row.kept_tokens_max = outcome.kept_max;
  row.kept_frac = outcome.kept_mean / static_cast<double>(std::max<std::int64_t>(1, context));
  row.stored_frac = outcome.stored_fraction;
  row.touched_frac = outcome.touched_fraction;
  row.metrics = eval_metrics(outcome, turns);
  row.more["requested_tokens_mean"] = outcome.requested_mean;
  row.more["stored_bytes"] = outcome.stored_bytes;
  row.more["full_bytes"] = outcome.full_bytes;
  row.more["nan_scores"] = outcome.nan_scores;
}

// Tokens that the full run predicts better by 0.1 nats and more than a run that sees four sinks and 64 near tokens.
std::vector<std::vector<bool>> far_gains(const ClosedPrompt& prompt) {
  const EvalJob near{sim::bind_policy("streamingllm(sinks=4)"), {sim::Amount::Kind::tokens, 68}, 0};
  const JobOutcome outcome = prompt.run(near);
  std::vector<std::vector<bool>> out;
  for (const QuestionOutcome& question : outcome.questions) {
    out.emplace_back();
    for (const AnswerToken& token : question.tokens) out.back().push_back(token.nll - token.nll_full > 0.1);
  }
  return out;
}

}  // namespace

std::string eval_hash(const sim::Model& model, const Suite& suite) {
  Hasher hasher;
  hasher.add_text(sim::model_config(model).card.model_hash);
  json::value content = suite_json(suite);
  content.get_object()["name"] = "";
  hasher.add_text(json_text(content));
  return hex(hasher.digest());
}

EvalOutcome run_eval(const EvalRequest& request, Progress* progress, const CancelToken& cancel) {
  const std::vector<Job> jobs = list(request);
  const std::string hash = eval_hash(*request.model, request.suite);
  const auto [free_front, free_back] = free_answer_tokens(request.suite);
  EvalOutcome out;
  out.jobs = static_cast<std::int64_t>(jobs.size());

  std::map<std::string, traces::ResultRow> there;
  std::unique_ptr<traces::ResultsWriter> writer;
  if (!request.out.empty()) {
    if (request.resume && std::filesystem::exists(request.out))
      for (traces::ResultRow& row : traces::read_results(request.out).rows) there.emplace(traces::job_key(row), row);
    using Mode = traces::ResultsWriter::Mode;
    writer = std::make_unique<traces::ResultsWriter>(request.out, request.resume  ? Mode::resume
                                                                  : request.force ? Mode::replace
                                                                                  : Mode::create);
    json::object run{{"type", "run"}, {"loop", "closed"}, {"version", version()}, {"git", git_hash()}};
    for (const auto& [key, value] : request.provenance) run[key] = value;
    run["suite"] = request.suite.name;
    run["model_hash"] = sim::model_config(*request.model).card.model_hash;
    writer->write(run);
  }

  const auto stop_if_cancelled = [&] {
    if (!cancel.cancelled()) return;
    throw Error(Category::interrupted,
                {.doing = "evaluating",
                 .on = request.suite.name,
                 .found = fmt::format("an interruption after {} of {} jobs", out.rows.size(), jobs.size()),
                 .usable = writer ? "every finished job is in the file" : "",
                 .next = writer ? "the same command with --resume goes on" : "with -o FILE it can go on later"});
  };
  for (std::size_t begin = 0; begin < jobs.size();) {
    std::size_t end = begin;
    while (end < jobs.size() && jobs[end].prompt == jobs[begin].prompt) ++end;
    const std::size_t p = jobs[begin].prompt;
    const SuitePrompt& prompt = request.suite.prompts[p];
    std::vector<traces::ResultRow> rows;
    std::vector<char> known;
    for (std::size_t j = begin; j < end; ++j) {
      rows.push_back(asked(request, jobs[j], hash));
      const auto it = there.find(traces::job_key(rows.back()));
      known.push_back(it != there.end());
      if (it != there.end()) rows.back() = it->second;
    }
    if (std::find(known.begin(), known.end(), 0) != known.end()) {
      stop_if_cancelled();
      if (progress) progress->update("evaluating", static_cast<std::int64_t>(begin), out.jobs);
      const auto fail_all = [&](const std::string& message) {
        for (std::size_t i = 0; i < rows.size(); ++i)
          if (!known[i]) {
            rows[i].status = "error";
            rows[i].message = message;
          }
      };
      try {
        ClosedOptions options = request.closed;
        for (std::size_t i = 0; i < rows.size(); ++i)
          if (!known[i]) options.policies.push_back(jobs[begin + i].job.policy);
        const ClosedPrompt closed(request.model, prompt, static_cast<std::int64_t>(p), options, free_front, free_back);
        std::vector<std::vector<bool>> far;
        if (prompt.questions[0].question.empty() && request.closed.turns == Turns::blind) far = far_gains(closed);
        parallel_for(static_cast<std::int64_t>(rows.size()), [&](std::int64_t i) {
          const auto at = static_cast<std::size_t>(i);
          if (known[at] || cancel.cancelled()) return;
          try {
            JobOutcome outcome = closed.run(jobs[begin + at].job);
            for (std::size_t q = 0; q < far.size(); ++q)
              for (std::size_t t = 0; t < far[q].size(); ++t) outcome.questions[q].tokens[t].far_gain = far[q][t];
            fill(rows[at], outcome, request.closed.turns, static_cast<std::int64_t>(prompt.context.size()));
          } catch (const Error& error) {
            rows[at].status = "error";
            rows[at].message = error.what();
          }
        });
      } catch (const Error& error) {
        fail_all(error.what());
      }
      stop_if_cancelled();
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (known[i]) {
        ++out.skipped;
      } else {
        if (writer) writer->write(rows[i]);
        ++(rows[i].status == "ok" ? out.done : out.failed);
        if (rows[i].status != "ok" && out.messages.size() < 20)
          out.messages.push_back(
              fmt::format("{} --budget {}, prompt {}: {}", rows[i].preset, rows[i].budget_asked, p, rows[i].message));
      }
      out.rows.push_back(std::move(rows[i]));
    }
    begin = end;
  }
  if (progress) progress->update("evaluating", out.jobs, out.jobs);
  if (writer) writer->close();
  return out;
}

}  // namespace kvgrind::replay
