#include "gui/models/memory.h"

#include <algorithm>

namespace kvgrind::gui {

MemorySeries memory_series(const ShownJob& job) {
  MemorySeries out{.name = job.name, .colour = job.colour, .points = {}};
  if (!job.view) return out;
  const replay::Timeline& timeline = job.view->timeline;
  out.compress_at = timeline.compress_at;
  for (const replay::TimelineStep& step : timeline.steps) {
    out.points.push_back(
        {step.seen, step.bytes, step.stored_bytes, step.full_bytes, step.touched_bytes, step.moved_bytes});
    out.peak = std::max(out.peak, step.stored_bytes);
  }
  if (job.view->row.budget_keep && !timeline.steps.empty())
    out.budget = *job.view->row.budget_keep * static_cast<double>(timeline.steps[timeline.compressed].full_bytes);
  return out;
}

Table memory_table(const std::vector<MemorySeries>& series) {
  Table out{.header = {"job", "seen_tokens", "exact_bytes", "coded_bytes", "overhead_bytes", "host_bytes", "disk_bytes",
                       "stored_bytes", "full_bytes", "touched_bytes", "moved_bytes"},
            .rows = {}};
  for (const MemorySeries& one : series)
    for (const MemorySeries::Point& p : one.points) {
      std::vector<std::string> row{one.name};
      for (const std::int64_t value : {p.seen, p.bytes.exact, p.bytes.coded, p.bytes.overhead, p.bytes.host,
                                       p.bytes.disk, p.stored, p.full, p.touched, p.moved})
        row.push_back(std::to_string(value));
      out.rows.push_back(std::move(row));
    }
  return out;
}

std::vector<MemorySeries::Point> decimated(const std::vector<MemorySeries::Point>& points, std::int64_t columns) {
  const auto n = static_cast<std::int64_t>(points.size());
  if (n <= 2 * columns || columns < 1) return points;
  std::vector<MemorySeries::Point> out;
  for (std::int64_t c = 0; c < columns; ++c) {
    const auto begin = points.begin() + c * n / columns, end = points.begin() + (c + 1) * n / columns;
    const auto less = [](const auto& a, const auto& b) { return a.stored < b.stored; };
    auto low = std::min_element(begin, end, less), high = std::max_element(begin, end, less);
    if (high < low) std::swap(low, high);
    out.push_back(*low);
    if (high != low) out.push_back(*high);
  }
  return out;
}

}  // namespace kvgrind::gui
