// Loss against cost from result rows: a series per policy, lower hull, references.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "gui/models/view_input.h"
#include "replay/report/report.h"

namespace kvgrind::gui {

inline constexpr const char* pareto_costs[] = {"stored_frac", "kept_frac", "touched_frac"};  // what stands across

struct ParetoPoint {
  double x = 0;
  replay::Estimate y;
  std::string budget, asked;  // in words; as typed
  bool hull = false, chosen = false;
};
struct ParetoSeries {
  std::string name, policy;
  bool reference = false;           // full, random, oracles: dashed, not on the hull
  std::vector<ParetoPoint> points;  // by x
  std::size_t colour = 0;
  bool strong = true;  // else it stands back, in grey
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

// Colours as the jobs have them elsewhere. With chosen jobs their policies stand out; of very many without, the
// front's.
void mark_shown(ParetoData& data, const std::vector<ShownJob>& jobs, const std::vector<std::string>& chosen);

// Metrics that at least one good row has, by name: what may stand on the axis upwards.
std::vector<std::string> figures_of(const std::vector<traces::ResultRow>& rows);

// Marks the points that no cheaper point equals or beats.
void mark_hull(std::vector<ParetoSeries>& series, bool higher_is_better);

}  // namespace kvgrind::gui
