// The closed loop on one prompt: the model re-runs with a policy in its cache, and what it says is held against the
// same model without one. The prefix (the tokens before the compression moment) is computed once and shared by every
// job that agrees on it; the teacher-forced tails of one prompt run as one batch.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tap.h"
#include "replay/probe/probe_plan.h"
#include "replay/suite/suite.h"
#include "sim/engine/policy_run.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

// When a policy compresses and what is asked then. Never mixed in one ranked list.
enum class Turns : std::uint8_t {
  blind,   // context → compress → each question on its own copy
  aware,   // context, question → compress → answer
  repeat,  // context, question → compress → the question once more → answer
  multi,   // context → compress → first question and answer, second …, all in one cache
};
std::string_view turns_name(Turns turns);
Turns turns_from_name(std::string_view name);  // Error(usage) with the nearest name

struct ClosedOptions {
  Turns turns = Turns::blind;
  std::int64_t prefill_chunk = 512;  // tokens per forward call
  bool compressed_prefill = false;   // prefill itself reads the policy's cache, chunk by chunk
  ProbePlan probes = {};             // how the context is read once more for policies that ask; which kinds they say
  bool kl = true;                    // keep the reference's distributions (vocab floats a token)
  // The only policies that will run, as far as known: the model is watched for what they ask, no further. Empty: any.
  std::vector<sim::PolicyPtr> policies = {};
};

struct EvalJob {
  sim::PolicyPtr policy;
  sim::Amount amount;
  std::uint64_t seed = 0;
};

struct AnswerToken {                       // one token of an answer
  double nll = 0, nll_full = 0;            // −log p(right token), nats
  double kl = 0;                           // KL(full ‖ policy) of the distribution it was drawn from, nats
  bool right = false, right_full = false;  // arg-max is the right token (ties: lowest id)
  bool same_top = false;                   // arg-max equals the full cache's
  bool free = false;                       // the same for every answer of the suite (tells nothing)
  bool far_gain = false;                   // prose: the full run predicts it better than a run without the far context
};

struct QuestionOutcome {
  std::vector<AnswerToken> tokens;
  bool exact() const;  // the whole answer, greedy: every arg-max right
};

struct JobOutcome {
  std::vector<QuestionOutcome> questions;
  // At the compression moment (for step schedules: at the end), over (layer, cache head) groups and questions.
  double kept_mean = 0;
  std::int64_t kept_min = 0, kept_max = 0;
  double requested_mean = 0;
  double stored_fraction = 0;   // stored bytes / bytes of the full cache
  double touched_fraction = 0;  // bytes read by a step / bytes of the full cache
  std::int64_t stored_bytes = 0, full_bytes = 0;
  std::int64_t slots_called = 0, nan_scores = 0;
  std::int64_t probe_tokens = 0;  // fed in passes over the context once more, on its full cache
};

// What tests look at.
struct ClosedObservers {
  std::function<void(const sim::GroupPlan&)> on_plan;  // every plan before it is applied
  Tap* first_tail = nullptr;                           // sees what the model shows of the first tail's tokens
};

class ClosedPrompt {
 public:
  // Runs the full cache: prefix and reference answers. `free_front`, `free_back`: tokens at the ends of each answer
  // that are the same for every answer of the suite.
  ClosedPrompt(std::shared_ptr<const sim::Model> model, const SuitePrompt& prompt, std::int64_t sequence,
               const ClosedOptions& options, std::int64_t free_front = 0, std::int64_t free_back = 0);
  ~ClosedPrompt();

  // The same prompt without a policy, one token at a time where `stepwise`.
  JobOutcome run_full(bool stepwise = false) const;
  JobOutcome run(const EvalJob& job) const;  // thread-safe
  JobOutcome run_observed(const EvalJob& job, const ClosedObservers& observers) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// How many tokens at the front and back of every answer of a suite are the same for all of them.
std::pair<std::int64_t, std::int64_t> free_answer_tokens(const Suite& suite);

}  // namespace kvgrind::replay
