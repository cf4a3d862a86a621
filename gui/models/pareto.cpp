#include "gui/models/pareto.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace kvgrind::gui {

void mark_hull(std::vector<ParetoSeries>& series, bool higher_is_better) {
  std::vector<ParetoPoint*> all;
  for (ParetoSeries& one : series)
    if (!one.reference)
      for (ParetoPoint& point : one.points) all.push_back(&point);
  const auto value = [&](const ParetoPoint* p) { return higher_is_better ? -p->y.value : p->y.value; };
  std::sort(all.begin(), all.end(), [&](const ParetoPoint* a, const ParetoPoint* b) {
    return a->x != b->x ? a->x < b->x : value(a) < value(b);
  });
  double best = 1e300;
  for (ParetoPoint* point : all)
    if (value(point) < best) {
      point->hull = true;
      best = value(point);
    }
}

ParetoData pareto_data(const std::vector<traces::ResultRow>& rows, const std::string& x, const std::string& y) {
  ParetoData out{.x = x};
  if (rows.empty()) return out;
  const replay::Report report = replay::build_report(rows, {.headline = y});
  out.verdict = replay::verdict(report);
  out.warnings = report.warnings;
  for (const replay::ReportTable& table : report.tables) {
    if (out.y.empty()) {
      out.y = table.headline;
      out.loop = table.loop;
      out.protocol = table.protocol;
    }
    if (table.loop != out.loop || table.protocol != out.protocol) continue;
    out.prompts = std::max(out.prompts, table.prompts);
    for (const replay::ReportRow& row : table.rows) {
      const auto cost = row.values.find(x), figure = row.values.find(out.y);
      if (cost == row.values.end() || figure == row.values.end() || !std::isfinite(cost->second.value) ||
          !std::isfinite(figure->second.value))
        continue;
      auto series = std::find_if(out.series.begin(), out.series.end(),
                                 [&](const ParetoSeries& one) { return one.name == row.preset; });
      if (series == out.series.end())
        series = out.series.insert(out.series.end(), {.name = row.preset,
                                                      .policy = row.policy,
                                                      .reference = row.standing == replay::Standing::reference,
                                                      .points = {}});
      series->points.push_back({cost->second.value, figure->second, replay::budget_words(table), table.budget});
    }
  }
  for (ParetoSeries& one : out.series)
    std::sort(one.points.begin(), one.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
  // By name, references last: colours do not depend on who wins.
  std::sort(out.series.begin(), out.series.end(), [](const ParetoSeries& a, const ParetoSeries& b) {
    return a.reference != b.reference ? b.reference : a.name < b.name;
  });
  out.higher_is_better = replay::higher_is_better(out.y);
  mark_hull(out.series, out.higher_is_better);
  return out;
}

void mark_shown(ParetoData& data, const std::vector<ShownJob>& jobs, const std::vector<std::string>& chosen) {
  constexpr std::size_t many = 14;
  bool any = false;
  for (ParetoSeries& one : data.series)
    for (ParetoPoint& point : one.points) {
      point.chosen = std::find(chosen.begin(), chosen.end(), job_key(one.name, point.asked)) != chosen.end();
      any = any || point.chosen;
    }
  std::set<std::size_t> taken;
  for (const ShownJob& job : jobs) taken.insert(job.colour);
  std::size_t next = 0;
  const auto colour = [&](ParetoSeries& one) {
    const auto job =
        std::find_if(jobs.begin(), jobs.end(), [&](const ShownJob& j) { return j.asked.policy == one.name; });
    if (job != jobs.end()) {
      one.colour = job->colour;
      return;
    }
    while (taken.contains(next)) ++next;
    one.colour = next++;
  };
  for (ParetoSeries& one : data.series) {
    const auto has = [&](bool ParetoPoint::*mark) {
      return std::any_of(one.points.begin(), one.points.end(), [&](const ParetoPoint& p) { return p.*mark; });
    };
    if (one.reference) continue;
    one.strong = any ? has(&ParetoPoint::chosen) : data.series.size() <= many || has(&ParetoPoint::hull);
    if (one.strong) colour(one);  // the colours furthest apart for these
  }
  for (ParetoSeries& one : data.series)
    if (!one.reference && !one.strong) colour(one);
}

std::vector<std::string> figures_of(const std::vector<traces::ResultRow>& rows) {
  std::set<std::string> out;
  for (const traces::ResultRow& row : rows)
    if (row.status == "ok")
      for (const auto& [name, figure] : row.metrics)
        if (std::isfinite(figure.value)) out.insert(name);
  return {out.begin(), out.end()};
}

Table pareto_table(const ParetoData& data) {
  Table out{.header = {"policy", "budget", data.x, data.y, "lo", "hi", "prompts", "reference", "hull"}, .rows = {}};
  for (const ParetoSeries& one : data.series)
    for (const ParetoPoint& p : one.points)
      out.rows.push_back({one.name, p.budget, number(p.x), number(p.y.value), number(p.y.lo), number(p.y.hi),
                          std::to_string(p.y.n), one.reference ? "1" : "0", p.hull ? "1" : "0"});
  return out;
}

}  // namespace kvgrind::gui
