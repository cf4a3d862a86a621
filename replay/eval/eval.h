// `kvgrind eval`: policies × amounts over a suite in the closed loop, one row per job and prompt. Prompts go one after
// another; the prefix of a prompt is computed once and shared by all jobs; rows are written in job order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/calibration.h"
#include "core/json.h"
#include "core/progress.h"
#include "replay/closed_loop/closed_loop.h"
#include "traces/results/result_row.h"

namespace kvgrind::replay {

struct EvalRequest {
  std::shared_ptr<const sim::Model> model;
  Suite suite;
  std::vector<std::string> policies;                                  // as typed
  std::vector<std::shared_ptr<const Calibration>> calibrations = {};  // for policies that need them
  std::vector<sim::Amount> amounts;
  std::vector<std::uint64_t> seeds{0};
  ClosedOptions closed;
  std::size_t first_prompt = 0, end_prompt = SIZE_MAX;  // only these prompts of the suite, [first, end)
  std::filesystem::path out;                            // results.jsonl; empty = rows are only returned
  bool resume = false, force = false, anonymous = false;
  json::object provenance;  // command and the like, for the run row
};

struct EvalOutcome {
  std::int64_t jobs = 0, done = 0, failed = 0, skipped = 0;
  std::vector<std::string> messages;    // of failed jobs, at most 20
  std::vector<traces::ResultRow> rows;  // of this run, in job order (resumed rows included)
};

// One failing job never stops the rest. Cancelled: finished prompts are written, then Error(interrupted).
EvalOutcome run_eval(const EvalRequest& request, Progress* progress, const CancelToken& cancel);

// Identity of what was evaluated: model, suite, and nothing else.
std::string eval_hash(const sim::Model& model, const Suite& suite);
// Metrics of an outcome (CONTRACTS section 5): dprob, dprob.content, token_accuracy, content_accuracy, answer_exact,
// nll_mean, dnll, kl, top1; dprob.far where tokens gain from far context; dprob.turn<i> in the multi-turn protocol.
traces::MetricMap eval_metrics(const JobOutcome& outcome, Turns turns);

}  // namespace kvgrind::replay
