// What the run itself predicted: the 64 most likely next tokens with natural log-probabilities.
#pragma once
#include <cstdint>
#include <span>

namespace kvgrind::traces {

// ids, log_p: 64 each, most likely first (ties: lower id); −1 and −∞ beyond the vocabulary. Returns log Σ exp(logits).
double top_log_probabilities(std::span<const float> logits, std::int32_t* ids, float* log_p);

}  // namespace kvgrind::traces
