#include "replay/closed_loop/answer_token.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::replay {

// Log-softmax with the sum in double.
Distribution distribution_of(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - *top));
  const double lse = *top + std::log(sum);
  Distribution out{std::vector<float>(logits.size()), static_cast<std::int32_t>(top - logits.begin())};
  for (std::size_t i = 0; i < logits.size(); ++i) out.log_p[i] = static_cast<float>(logits[i] - lse);
  return out;
}

AnswerToken full_token(const Tail::Target& target, const Distribution& full) {
  AnswerToken token;
  token.nll = token.nll_full = -static_cast<double>(full.log_p[static_cast<std::size_t>(target.id)]);
  token.right = token.right_full = full.top == target.id;
  token.same_top = true;
  token.free = target.free;
  return token;
}

AnswerToken answer_token(const Tail::Target& target, const Distribution& full, std::span<const float> logits, bool kl) {
  const Distribution own = distribution_of(logits);
  AnswerToken token = full_token(target, full);
  token.nll = -static_cast<double>(own.log_p[static_cast<std::size_t>(target.id)]);
  token.right = own.top == target.id;
  token.same_top = own.top == full.top;
  if (kl)
    for (std::size_t v = 0; v < own.log_p.size(); ++v)
      token.kl += std::exp(static_cast<double>(full.log_p[v])) *
                  (static_cast<double>(full.log_p[v]) - static_cast<double>(own.log_p[v]));
  return token;
}

}  // namespace kvgrind::replay
