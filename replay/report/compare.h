// Two result files held against each other, job by job.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "replay/report/report.h"
#include "traces/results/result_row.h"

namespace kvgrind::replay {

// "D.answer>0.2", "recall.all<0.9", "|dnll|>0.01", "delta(D.answer)>0.02": true = fail. Bare names look at b's value
// of every job; delta(…) at b − a of paired jobs. Error(usage).
struct Threshold {
  std::string text, metric;
  bool delta = false, absolute = false;
  char op = '>';  // '>' or '<'; with orEqual
  bool or_equal = false;
  double limit = 0;
};
Threshold parse_threshold(std::string_view text);

struct CompareRow {
  std::string preset, budget, protocol, metric;
  Estimate a, b, delta;  // over paired prompts
};
struct Comparison {
  std::int64_t paired = 0, only_a = 0, only_b = 0, different = 0;  // jobs; different: same job, other figures
  std::vector<CompareRow> rows;
  std::vector<std::string> failures;  // thresholds that were crossed, in words; not empty = exit 6
};
Comparison compare_results(const std::vector<traces::ResultRow>& a, const std::vector<traces::ResultRow>& b,
                           const std::vector<Threshold>& thresholds, const ReportOptions& options = {});
std::string print_comparison(const Comparison& comparison, ReportFormat format);

}  // namespace kvgrind::replay
