// Bytes of a job's cache over the tokens it saw; totals are the ledger's.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

struct MemorySeries {
  std::string name;
  std::size_t colour = 0;
  struct Point {
    std::int64_t seen = 0;
    replay::MemoryBytes bytes;
    std::int64_t stored = 0, full = 0, touched = 0, moved = 0;  // of the ledger
  };
  std::vector<Point> points;
  std::int64_t compress_at = 0, peak = 0;
  double budget = 0;  // bytes that the effective budget allows at compression; 0 = not known
};
MemorySeries memory_series(const ShownJob& job);
Table memory_table(const std::vector<MemorySeries>& series);

// At most two points a pixel column (the least and the largest total), so that no peak is lost.
std::vector<MemorySeries::Point> decimated(const std::vector<MemorySeries::Point>& points, std::int64_t columns);

}  // namespace kvgrind::gui
