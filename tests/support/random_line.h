// Random policy lines: every primitive of every slot, calls within calls, parameters drawn within their declared
// ranges.
#pragma once
#include <random>
#include <string>

namespace kvgrind::tests {

// A call of a slot with random parameters; calls in its parameters nest up to `depth` times. `name` = "" draws one.
std::string random_call(std::mt19937_64& rng, const std::string& slot, int depth, const std::string& name = "");

// A whole line. Three times of four the score is one that gives the columns that its budget and select need.
std::string random_line(std::mt19937_64& rng);

}  // namespace kvgrind::tests
