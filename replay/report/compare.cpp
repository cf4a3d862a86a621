#include "replay/report/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/report/bootstrap.h"
#include "replay/report/text_table.h"

namespace kvgrind::replay {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

double figure(const traces::ResultRow& row, const std::string& name) {
  if (name == "kept_frac") return row.kept_frac;
  if (name == "stored_frac") return row.stored_frac;
  if (name == "touched_frac") return row.touched_frac;
  const auto it = row.metrics.find(name);
  return it == row.metrics.end() ? nan : it->second.value;
}

using Jobs = std::map<std::string, const traces::ResultRow*>;

// Trace hashes may differ (two recordings of one prompt set): a job is paired by what was asked.
Jobs jobs_of(const std::vector<traces::ResultRow>& rows) {
  Jobs out;
  for (const traces::ResultRow& row : rows) {
    traces::ResultRow key = row;
    key.trace.clear();
    const auto [it, fresh] = out.try_emplace(traces::job_key(key), &row);
    if (!fresh && it->second->status != "ok") it->second = &row;
  }
  return out;
}

bool crossed(const Threshold& threshold, double value) {
  if (threshold.absolute) value = std::abs(value);
  if (threshold.op == '>') return threshold.or_equal ? value >= threshold.limit : value > threshold.limit;
  return threshold.or_equal ? value <= threshold.limit : value < threshold.limit;
}

std::string job_words(const traces::ResultRow& row) {
  return fmt::format("{} at {}, {}, sequence {}, seed {}", row.preset, row.budget_asked, row.protocol, row.sequence,
                     row.seed);
}

void check(const Threshold& threshold, const traces::ResultRow* a, const traces::ResultRow& b,
           std::vector<std::string>& failures, std::int64_t& checked) {
  const double now = figure(b, threshold.metric);
  const double before = a ? figure(*a, threshold.metric) : nan;
  const double value = threshold.delta ? now - before : now;
  if (std::isnan(value)) return;
  ++checked;
  if (crossed(threshold, value))
    failures.push_back(fmt::format("{}: {} is {}", threshold.text, job_words(b), number_text(value)));
}

}  // namespace

Threshold parse_threshold(std::string_view text) {
  const auto fail = [&](const std::string& found) -> Error {
    return Error(Category::usage,
                 {.doing = "reading --fail-if",
                  .on = fmt::format("`{}`", text),
                  .found = found,
                  .expected = "metric>number, metric<number, |metric|>number or delta(metric)>number"});
  };
  Threshold out;
  out.text = std::string(text);
  const std::size_t at = text.find_first_of("<>");
  if (at == std::string_view::npos) throw fail("no < or >");
  out.op = text[at];
  std::string_view left = trimmed(text.substr(0, at)), right = text.substr(at + 1);
  if (!right.empty() && right.front() == '=') {
    out.or_equal = true;
    right.remove_prefix(1);
  }
  right = trimmed(right);
  const auto [end, error] = std::from_chars(right.data(), right.data() + right.size(), out.limit);
  if (error != std::errc() || end != right.data() + right.size() || !std::isfinite(out.limit))
    throw fail(fmt::format("`{}`, which is no number", right));
  if (left.size() > 2 && left.front() == '|' && left.back() == '|') {
    out.absolute = true;
    left = trimmed(left.substr(1, left.size() - 2));
  }
  if (left.rfind("delta(", 0) == 0 && left.back() == ')') {
    out.delta = true;
    left = trimmed(left.substr(6, left.size() - 7));
  }
  if (left.empty()) throw fail("no metric");
  out.metric = std::string(left);
  return out;
}

Comparison compare_results(const std::vector<traces::ResultRow>& a, const std::vector<traces::ResultRow>& b,
                           const std::vector<Threshold>& thresholds, const ReportOptions& options) {
  const Jobs jobs_a = jobs_of(a), jobs_b = jobs_of(b);
  Comparison out;
  struct Pairs {
    std::string preset, budget, protocol;
    std::vector<std::pair<const traces::ResultRow*, const traces::ResultRow*>> rows;
  };
  std::map<std::string, Pairs> groups;
  for (const auto& [key, row] : jobs_b) {
    const auto it = jobs_a.find(key);
    if (it == jobs_a.end()) {
      ++out.only_b;
      continue;
    }
    ++out.paired;
    const std::string group =
        fmt::format("{}|{}|{}|{}", row->loop, row->protocol, row->budget_asked, row->hash + row->preset);
    Pairs& pairs = groups[group];
    pairs.preset = row->preset;
    pairs.budget = row->budget_asked;
    pairs.protocol = row->protocol;
    pairs.rows.emplace_back(it->second, row);
    json::object figures_a = traces::to_json(*it->second), figures_b = traces::to_json(*row);
    for (const char* own : {"job", "trace", "preset", "provenance"}) figures_a.erase(own), figures_b.erase(own);
    out.different += json_text(figures_a) != json_text(figures_b);
  }
  for (const auto& [key, row] : jobs_a) out.only_a += !jobs_b.contains(key);

  for (const Threshold& threshold : thresholds) {
    std::int64_t checked = 0;
    for (const auto& [key, row] : jobs_b) {
      const auto it = jobs_a.find(key);
      check(threshold, it == jobs_a.end() ? nullptr : it->second, *row, out.failures, checked);
    }
    // A threshold that nothing was held against must not pass silently.
    if (checked == 0) out.failures.push_back(fmt::format("{}: no job has `{}`", threshold.text, threshold.metric));
  }

  std::vector<std::string> metrics = options.metrics;
  if (metrics.empty()) {
    for (const char* name : {"dprob", "predicted_dprob.answer", "D.answer", "D.all", "S.answer", "E.answer",
                             "recall.answer", "recall.all", "answer_exact", "dnll", "stored_frac"})
      metrics.emplace_back(name);
    for (const Threshold& threshold : thresholds)
      if (std::find(metrics.begin(), metrics.end(), threshold.metric) == metrics.end())
        metrics.push_back(threshold.metric);
  }
  for (const auto& [key, pairs] : groups) {
    // Prompts: contexts of the pairs, each the mean over its sequences and seeds.
    std::map<std::int64_t, std::size_t> prompt_of;
    for (const auto& [row_a, row_b] : pairs.rows) prompt_of.emplace(row_b->context, prompt_of.size());
    const Bootstrap bootstrap(static_cast<std::int64_t>(prompt_of.size()), options.resamples, options.seed,
                              options.confidence);
    for (const std::string& metric : metrics) {
      std::vector<double> sum_a(prompt_of.size(), 0.0), sum_b(sum_a), n(sum_a);
      for (const auto& [row_a, row_b] : pairs.rows) {
        const double value_a = figure(*row_a, metric), value_b = figure(*row_b, metric);
        if (std::isnan(value_a) || std::isnan(value_b)) continue;
        const std::size_t at = prompt_of.at(row_b->context);
        sum_a[at] += value_a;
        sum_b[at] += value_b;
        ++n[at];
      }
      for (std::size_t i = 0; i < n.size(); ++i) {
        sum_a[i] = n[i] > 0 ? sum_a[i] / n[i] : nan;
        sum_b[i] = n[i] > 0 ? sum_b[i] / n[i] : nan;
      }
      CompareRow row{.preset = pairs.preset,
                     .budget = pairs.budget,
                     .protocol = pairs.protocol,
                     .metric = metric,
                     .a = bootstrap.mean(sum_a),
                     .b = bootstrap.mean(sum_b),
                     .delta = bootstrap.difference(sum_b, sum_a)};
      if (row.delta.n > 0) out.rows.push_back(std::move(row));
    }
  }
  return out;
}

namespace {

std::string text_of(const Estimate& e, bool sign) {
  std::string out = sign ? fmt::format("{:+.4f}", e.value) : fmt::format("{:.4f}", e.value);
  if (!std::isnan(e.lo)) out += fmt::format(" [{:.4f}, {:.4f}]", e.lo, e.hi);
  return out;
}

std::string summary_text(const Comparison& c) {
  std::string out =
      fmt::format("{} jobs in both ({} with other figures), {} only in the first, {} only in the second\n", c.paired,
                  c.different, c.only_a, c.only_b);
  for (const std::string& failure : c.failures) out += "failed " + failure + "\n";
  return out;
}

json::object json_of(const Estimate& e) {
  const auto number = [](double value) { return std::isnan(value) ? json::value(nullptr) : json::value(value); };
  return {{"value", number(e.value)}, {"lo", number(e.lo)}, {"hi", number(e.hi)}, {"n", e.n}};
}

}  // namespace

std::string print_comparison(const Comparison& comparison, ReportFormat format) {
  if (format == ReportFormat::json) {
    json::array rows, failures;
    for (const CompareRow& row : comparison.rows)
      rows.push_back(json::object{{"preset", row.preset},
                                  {"budget", row.budget},
                                  {"protocol", row.protocol},
                                  {"metric", row.metric},
                                  {"a", json_of(row.a)},
                                  {"b", json_of(row.b)},
                                  {"delta", json_of(row.delta)}});
    for (const std::string& failure : comparison.failures) failures.emplace_back(failure);
    return json_text(json::object{{"schema", 1},
                                  {"type", "comparison"},
                                  {"paired", comparison.paired},
                                  {"only_a", comparison.only_a},
                                  {"only_b", comparison.only_b},
                                  {"different", comparison.different},
                                  {"rows", rows},
                                  {"failures", failures}}) +
           "\n";
  }
  if (format == ReportFormat::csv) {
    std::string out =
        csv_line({"preset", "budget", "protocol", "metric", "a", "b", "delta", "delta_lo", "delta_hi", "n"});
    const auto number = [](double value) { return std::isnan(value) ? std::string{} : number_text(value); };
    for (const CompareRow& row : comparison.rows)
      out +=
          csv_line({row.preset, row.budget, row.protocol, row.metric, number(row.a.value), number(row.b.value),
                    number(row.delta.value), number(row.delta.lo), number(row.delta.hi), std::to_string(row.delta.n)});
    return out;
  }
  std::vector<std::vector<std::string>> cells = {
      {"policy", "budget", "protocol", "metric", "first", "second", "second − first"}};
  for (const CompareRow& row : comparison.rows)
    cells.push_back({row.preset, row.budget, row.protocol, row.metric, text_of(row.a, false), text_of(row.b, false),
                     text_of(row.delta, true)});
  return (format == ReportFormat::md ? markdown_table(cells) + "\n" : text_table(cells)) + summary_text(comparison);
}

}  // namespace kvgrind::replay
