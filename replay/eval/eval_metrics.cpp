#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "replay/eval/eval.h"

namespace kvgrind::replay {
namespace {

class Mean {
 public:
  void add(double value) {
    sum_ += value;
    ++n_;
  }
  traces::Metric metric() const {
    traces::Metric out;
    if (n_ > 0) out.value = sum_ / static_cast<double>(n_);
    out.n = n_;
    return out;
  }
  bool empty() const { return n_ == 0; }

 private:
  double sum_ = 0;
  std::int64_t n_ = 0;
};

}  // namespace

traces::MetricMap eval_metrics(const JobOutcome& outcome, Turns turns) {
  Mean loss, content_loss, far_loss, accuracy, content_accuracy, exact, exact_full, nll, dnll, kl, top, p_full;
  traces::MetricMap out;
  for (std::size_t q = 0; q < outcome.questions.size(); ++q) {
    Mean turn_loss;
    bool full_right = true;
    for (const AnswerToken& token : outcome.questions[q].tokens) {
      const double lost = std::exp(-token.nll_full) - std::exp(-token.nll);
      loss.add(lost);
      turn_loss.add(lost);
      accuracy.add(token.right);
      if (!token.free) {
        content_loss.add(lost);
        content_accuracy.add(token.right);
      }
      if (token.far_gain) far_loss.add(lost);
      nll.add(token.nll);
      dnll.add(token.nll - token.nll_full);
      kl.add(token.kl);
      top.add(token.same_top);
      p_full.add(std::exp(-token.nll_full));
      full_right = full_right && token.right_full;
    }
    exact.add(outcome.questions[q].exact());
    exact_full.add(full_right);
    if (turns == Turns::multi) out[fmt::format("dprob.turn{}", q + 1)] = turn_loss.metric();
  }
  out["dprob"] = loss.metric();
  out["dprob.content"] = content_loss.metric();
  if (!far_loss.empty()) out["dprob.far"] = far_loss.metric();
  out["token_accuracy"] = accuracy.metric();
  out["content_accuracy"] = content_accuracy.metric();
  out["answer_exact"] = exact.metric();
  out["answer_exact_full"] = exact_full.metric();
  out["nll_mean"] = nll.metric();
  out["dnll"] = dnll.metric();
  out["kl"] = kl.metric();
  out["top1"] = top.metric();
  out["p_full_mean"] = p_full.metric();
  if (outcome.probe_tokens > 0)
    out["probe_tokens"] = {.value = static_cast<double>(outcome.probe_tokens), .n = 1};  // fed before compressing
  return out;
}

}  // namespace kvgrind::replay
