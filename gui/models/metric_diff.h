// Figures of two result files, or of the policies of one, held against each other pair by pair.
#pragma once
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "replay/report/compare.h"

namespace kvgrind::gui {

struct MetricDiffRow {
  std::string policy, budget, protocol;
  replay::Estimate a, b, delta;  // b − a over paired prompts
};
struct MetricDiff {
  std::string a, b, metric;  // names of the two sides
  bool higher_is_better = false;
  std::int64_t paired = 0, only_a = 0, only_b = 0;
  std::vector<MetricDiffRow> rows;  // by budget as asked, then largest difference first
};

// `metric` empty: the headline of the report over b.
MetricDiff metric_diff(const std::vector<traces::ResultRow>& a, const std::vector<traces::ResultRow>& b,
                       std::string metric, const std::string& name_a, const std::string& name_b);
// Every policy of one list against the one that leads at its budget. Empty rows: fewer than two are ranked.
MetricDiff metric_diff_to_best(const std::vector<traces::ResultRow>& rows, std::string metric);
Table metric_diff_table(const MetricDiff& diff);

}  // namespace kvgrind::gui
