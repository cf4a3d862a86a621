// Text that repeats itself, and how much of a head's attention goes to the repetition.
#pragma once
#include <cstdint>
#include <vector>

#include "replay/fit/fit_data.h"

namespace kvgrind::replay {

// Tokens [first, T) repeat with this period, at least twice; the longest such end. period 0: they do not.
struct Repetition {
  std::int64_t first = 0, period = 0;
};
Repetition find_repetition(const std::vector<std::int32_t>& tokens);

// Attention [rows, T] of queries at first_query, …: Σ over the same tokens before, and over those that followed them.
struct EchoScores {
  double echo = 0, induction = 0;
};
EchoScores echo_scores(const Rows& attention, std::int64_t first_query, const Repetition& repetition);

}  // namespace kvgrind::replay
