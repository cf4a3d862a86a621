// Loss against cost from result rows: a series per policy, lower hull, references.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "replay/report/report.h"

namespace kvgrind::gui {

struct ParetoPoint {
  double x = 0;
  replay::Estimate y;
  std::string budget;
  bool hull = false;
};
struct ParetoSeries {
  std::string name, policy;
  bool reference = false;           // full, random, oracles: dashed, not on the hull
  std::vector<ParetoPoint> points;  // by x
};
struct ParetoData {
  std::string x, y, loop, protocol, verdict;
  std::vector<std::string> warnings;
  std::int64_t prompts = 0;
  bool higher_is_better = false;
  std::vector<ParetoSeries> series;
};
// Of the first list (loop and protocol) that has figures.
ParetoData pareto_data(const std::vector<traces::ResultRow>& rows, const std::string& x, const std::string& y);
Table pareto_table(const ParetoData& data);

// Marks the points that no cheaper point equals or beats.
void mark_hull(std::vector<ParetoSeries>& series, bool higher_is_better);

}  // namespace kvgrind::gui
