// What a model says of one answer token, held against the full cache's.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "replay/closed_loop/closed_loop.h"
#include "replay/closed_loop/tails.h"

namespace kvgrind::replay {

struct Distribution {
  std::vector<float> log_p;  // [vocab] nats
  std::int32_t top = 0;      // arg-max, the lowest of equals
};
Distribution distribution_of(std::span<const float> logits);

// The target as the full cache itself has it; and as `logits` have it (`kl`: with the divergence).
AnswerToken full_token(const Tail::Target& target, const Distribution& full);
AnswerToken answer_token(const Tail::Target& target, const Distribution& full, std::span<const float> logits, bool kl);

}  // namespace kvgrind::replay
