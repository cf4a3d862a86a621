// `kvgrind validate`: both loops over one grid of methods × amounts × prompts, and how well each open-loop figure
// predicts the closed loop's loss. Everything lands in one folder and is resumable: a batch of prompts whose open-loop
// rows are there is not recorded again, a prompt whose closed-loop rows are there is not run again.
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
#include "replay/metrics/metrics.h"
#include "replay/suite/suite.h"
#include "replay/validate/validation_report.h"
#include "sim/engine/policy.h"
#include "sim/model/runtime.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::replay {

struct ValidateRequest {
  const traces::ModelFolder* model = nullptr;
  std::shared_ptr<const sim::Model> runtime;
  std::vector<Suite> suites;                                          // one task each
  std::vector<std::string> policies;                                  // as typed
  std::vector<std::shared_ptr<const Calibration>> calibrations = {};  // for policies that need them
  std::string device = "auto";  // where recordings run; `runtime` has its own place
  std::vector<sim::Amount> amounts;
  std::vector<std::uint64_t> seeds{0};
  std::filesystem::path folder;  // created; open-*.jsonl and closed-*.jsonl go here
  // blind: each question on its own copy of the cache; aware: the same, compressed after the question; multi: all in
  // one cache. Not repeat, whose second question no recording holds.
  Turns turns = Turns::blind;
  std::int64_t batch_prompts = 10;  // recorded at once, then replayed and deleted
  double stop_after_s = 0;          // no batch is begun after that; the report is on the prompts done. 0 = no limit
  std::int64_t resamples = 1000;
  std::string headline = default_headline;
  std::string command;
};

// Contexts as parents, their questions (with the answer) as forks: one a question, or in `multi` all in one. The id of
// a sequence is its place in the list.
std::vector<TokenSequence> sequences_of(const Suite& suite, Turns turns, std::size_t begin, std::size_t end);

// Runs what is missing, then correlates. Methods that fail in either loop are left out of that task and named.
struct ValidateOutcome {
  Validation validation;
  std::vector<std::string> left_out;  // "oracle: … needs future queries"
};
ValidateOutcome run_validate(const ValidateRequest& request, Progress* progress, const CancelToken& cancel);

}  // namespace kvgrind::replay
