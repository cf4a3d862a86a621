#include "gui/models/metric_diff.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

namespace kvgrind::gui {
namespace {

std::string headline_of(const std::vector<traces::ResultRow>& rows, std::string metric) {
  return metric.empty() ? replay::build_report(rows).headline : metric;
}

// Of the number in "0.2", "512t", "removed 0.8": only for the order.
double amount(const std::string& budget) {
  const std::size_t at = budget.find_first_of("0123456789");
  return at == std::string::npos ? 0 : std::strtod(budget.c_str() + at, nullptr);
}

void sort_rows(MetricDiff& diff) {
  std::stable_sort(diff.rows.begin(), diff.rows.end(), [](const MetricDiffRow& x, const MetricDiffRow& y) {
    if (x.protocol != y.protocol) return x.protocol < y.protocol;
    if (x.budget != y.budget) {
      const double a = amount(x.budget), b = amount(y.budget);
      return a != b ? a < b : x.budget < y.budget;
    }
    return std::abs(x.delta.value) > std::abs(y.delta.value);
  });
}

}  // namespace

MetricDiff metric_diff(const std::vector<traces::ResultRow>& a, const std::vector<traces::ResultRow>& b,
                       std::string metric, const std::string& name_a, const std::string& name_b) {
  if (metric.empty()) {  // the headline of b, or the next best that both have
    const auto has = [](const std::vector<traces::ResultRow>& rows, const std::string& name) {
      return std::any_of(rows.begin(), rows.end(), [&](const traces::ResultRow& row) {
        const auto it = row.metrics.find(name);
        return it != row.metrics.end() && std::isfinite(it->second.value);
      });
    };
    std::vector<std::string> names{headline_of(b, {})};
    for (const char* name :
         {"dprob", "D.answer", "recall.answer", "predicted_dprob.all", "D.all", "S.all", "recall.all"})
      names.emplace_back(name);
    metric = names.front();
    for (const std::string& name : names)
      if (has(a, name) && has(b, name)) {
        metric = name;
        break;
      }
  }
  MetricDiff out{.a = name_a, .b = name_b, .metric = headline_of(b, std::move(metric)), .rows = {}};
  out.higher_is_better = replay::higher_is_better(out.metric);
  const replay::Comparison comparison = replay::compare_results(a, b, {}, {.metrics = {out.metric}});
  out.paired = comparison.paired;
  out.only_a = comparison.only_a;
  out.only_b = comparison.only_b;
  for (const replay::CompareRow& row : comparison.rows)
    out.rows.push_back({row.preset, row.budget, row.protocol, row.a, row.b, row.delta});
  sort_rows(out);
  return out;
}

MetricDiff metric_diff_to_best(const std::vector<traces::ResultRow>& rows, std::string metric) {
  const replay::Report report = replay::build_report(rows, {.headline = metric});
  MetricDiff out{.a = "the leader", .b = "each other policy", .metric = report.headline, .rows = {}};
  out.higher_is_better = replay::higher_is_better(out.metric);
  for (const replay::ReportTable& table : report.tables) {
    const replay::ReportRow* best = nullptr;
    for (const replay::ReportRow& row : table.rows)
      if (row.standing == replay::Standing::ranked && (!best || row.rank < best->rank)) best = &row;
    if (!best || table.headline != out.metric) continue;
    // Under one name, so that equal prompts and seeds pair.
    std::map<std::string, std::vector<traces::ResultRow>> of;  // by policy as typed
    for (const traces::ResultRow& row : rows) {
      if (row.loop != table.loop || row.protocol != table.protocol || row.budget_asked != table.budget ||
          row.status != "ok")
        continue;
      traces::ResultRow one = row;
      one.policy = one.hash = "";
      one.preset = "";
      if (std::any_of(table.rows.begin(), table.rows.end(),
                      [&](const replay::ReportRow& r) { return r.hash == row.hash && r.preset == row.preset; }))
        of[row.hash + row.preset].push_back(std::move(one));
    }
    const auto leader = of.find(best->hash + best->preset);
    if (leader == of.end()) continue;
    for (const replay::ReportRow& row : table.rows) {
      const auto mine = of.find(row.hash + row.preset);
      if (&row == best || mine == of.end()) continue;
      for (const replay::CompareRow& pair :
           replay::compare_results(leader->second, mine->second, {}, {.metrics = {out.metric}}).rows)
        out.rows.push_back(
            {row.preset + " against " + best->preset, pair.budget, pair.protocol, pair.a, pair.b, pair.delta});
    }
  }
  sort_rows(out);
  return out;
}

Table metric_diff_table(const MetricDiff& diff) {
  Table out{.header = {"policy", "budget", "protocol", "metric", "a", "b", "delta", "lo", "hi", "prompts"}, .rows = {}};
  for (const MetricDiffRow& row : diff.rows)
    out.rows.push_back({row.policy, row.budget, row.protocol, diff.metric, number(row.a.value), number(row.b.value),
                        number(row.delta.value), number(row.delta.lo), number(row.delta.hi),
                        std::to_string(row.delta.n)});
  return out;
}

}  // namespace kvgrind::gui
