// A report as text, CSV, JSON or Markdown.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/report/report.h"
#include "replay/report/text_table.h"

namespace kvgrind::replay {
namespace {

std::string bytes_text(double bytes) {
  for (const auto& [unit, size] :
       {std::pair("GiB", 1073741824.0), std::pair("MiB", 1048576.0), std::pair("KiB", 1024.0)})
    if (bytes >= size) return fmt::format("{:.1f} {}", bytes / size, unit);
  return fmt::format("{:.0f} B", bytes);
}

bool is_plain(const std::string& column) {  // shown without its interval
  return column == "kept_frac" || column == "stored_frac" || column == "touched_frac" || column == "stored_bytes";
}

std::string cell(const std::string& column, const Estimate& e, bool interval) {
  if (std::isnan(e.value)) return "–";
  if (column == "stored_bytes") return bytes_text(e.value);
  if (!interval || is_plain(column) || std::isnan(e.lo)) return fmt::format("{:.3f}", e.value);
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", e.value, e.lo, e.hi);
}

const char* standing_name(Standing standing) {
  return standing == Standing::ranked ? "ranked" : standing == Standing::over ? "over" : "reference";
}

std::string rank_text(const ReportRow& row) {
  if (row.standing == Standing::reference) return "ref";
  if (row.standing == Standing::over) return "over";
  return std::isnan(row.rank) ? "–" : number_text(row.rank);
}

std::string heading(const ReportTable& table) {
  return fmt::format("{} loop, {}, {}: {} prompt{}, by {} ({} is better)", table.loop == "closed" ? "Closed" : "Open",
                     table.protocol, budget_words(table), table.prompts, table.prompts == 1 ? "" : "s", table.headline,
                     higher_is_better(table.headline) ? "higher" : "lower");
}

// Header and cells of one table; the headline carries its interval.
std::vector<std::vector<std::string>> cells(const ReportTable& table) {
  std::vector<std::vector<std::string>> out = {{"rank", "policy"}};
  for (const std::string& column : table.columns) out[0].push_back(column);
  const bool failed = std::any_of(table.rows.begin(), table.rows.end(), [](const auto& row) { return row.failed > 0; });
  if (failed) out[0].emplace_back("failed");
  for (const ReportRow& row : table.rows) {
    std::vector<std::string> line = {rank_text(row), row.preset};
    for (const std::string& column : table.columns)
      line.push_back(cell(column, row.values.at(column), column == table.headline));
    if (failed) line.push_back(std::to_string(row.failed));
    out.push_back(std::move(line));
  }
  return out;
}

std::string footer(const Report& report) {
  return fmt::format(
      "Intervals: {:g} % bootstrap over prompts, {} resamples, seed {}. Reference rows (ref) are not ranked, nor "
      "are those that store more than the budget (over).",
      report.confidence * 100, report.resamples, report.seed);
}

std::string print_table(const Report& report) {
  std::string out;
  for (const ReportTable& table : report.tables) {
    out += heading(table) + "\n" + text_table(cells(table));
    if (!table.verdict.empty()) out += table.verdict + "\n";
    out += "\n";
  }
  for (const std::string& line : report.trust) out += line + "\n";
  if (!report.trust.empty()) out += "\n";
  for (const std::string& warning : report.warnings) out += "warning: " + warning + "\n";
  if (report.tables.empty()) return "no result rows\n";
  return out + footer(report) + "\n";
}

std::string print_markdown(const Report& report) {
  std::string out;
  for (const ReportTable& table : report.tables) {
    out += "### " + heading(table) + "\n\n" + markdown_table(cells(table)) + "\n";
    if (!table.verdict.empty()) out += table.verdict + "\n\n";
  }
  for (const std::string& line : report.trust) out += line + "\n";
  if (!report.trust.empty()) out += "\n";
  for (const std::string& warning : report.warnings) out += "- warning: " + warning + "\n";
  if (report.tables.empty()) return "no result rows\n";
  return out + (report.warnings.empty() ? "" : "\n") + footer(report) + "\n";
}

std::string csv_number(double value) { return std::isnan(value) ? std::string{} : number_text(value); }

std::string print_csv(const Report& report) {
  std::vector<std::string> columns;
  for (const ReportTable& table : report.tables)
    for (const std::string& column : table.columns)
      if (std::find(columns.begin(), columns.end(), column) == columns.end()) columns.push_back(column);
  std::vector<std::string> line = {"loop",   "protocol", "budget", "headline", "rank",  "standing",
                                   "preset", "policy",   "hash",   "prompts",  "failed"};
  for (const std::string& column : columns)
    for (const char* part : {"", "_lo", "_hi", "_n"}) line.push_back(column + part);
  std::string out = csv_line(line);
  for (const ReportTable& table : report.tables)
    for (const ReportRow& row : table.rows) {
      line = {table.loop,
              table.protocol,
              table.budget,
              table.headline,
              csv_number(row.rank),
              standing_name(row.standing),
              row.preset,
              row.policy,
              row.hash,
              std::to_string(table.prompts),
              std::to_string(row.failed)};
      for (const std::string& column : columns) {
        const auto it = row.values.find(column);
        const Estimate e = it == row.values.end() ? Estimate{} : it->second;
        line.insert(line.end(), {csv_number(e.value), csv_number(e.lo), csv_number(e.hi), std::to_string(e.n)});
      }
      out += csv_line(line);
    }
  return out;
}

json::value number_or_null(double value) { return std::isnan(value) ? json::value(nullptr) : json::value(value); }

std::string print_json(const Report& report) {
  json::array tables;
  for (const ReportTable& table : report.tables) {
    json::array rows;
    for (const ReportRow& row : table.rows) {
      json::object values;
      for (const std::string& column : table.columns) {
        const Estimate& e = row.values.at(column);
        values[column] = json::object{
            {"value", number_or_null(e.value)}, {"lo", number_or_null(e.lo)}, {"hi", number_or_null(e.hi)}, {"n", e.n}};
      }
      rows.push_back(json::object{{"rank", number_or_null(row.rank)},
                                  {"standing", standing_name(row.standing)},
                                  {"preset", row.preset},
                                  {"policy", row.policy},
                                  {"hash", row.hash},
                                  {"failed", row.failed},
                                  {"values", std::move(values)}});
    }
    tables.push_back(json::object{{"loop", table.loop},
                                  {"protocol", table.protocol},
                                  {"budget", table.budget},
                                  {"budget_keep", number_or_null(table.budget_keep)},
                                  {"headline", table.headline},
                                  {"higher_is_better", higher_is_better(table.headline)},
                                  {"prompts", table.prompts},
                                  {"rows", std::move(rows)},
                                  {"verdict", table.verdict}});
  }
  json::array warnings;
  for (const std::string& warning : report.warnings) warnings.emplace_back(warning);
  return json_text(json::object{{"schema", 1},
                                {"type", "report"},
                                {"headline", report.headline},
                                {"verdict", verdict(report)},
                                {"confidence", report.confidence},
                                {"resamples", report.resamples},
                                {"seed", report.seed},
                                {"tables", std::move(tables)},
                                {"trust", report.trust_block},
                                {"trust_text", json::array(report.trust.begin(), report.trust.end())},
                                {"warnings", std::move(warnings)}}) +
         "\n";
}

}  // namespace

ReportFormat report_format_from_name(std::string_view name) {
  const std::vector<std::string> names = {"table", "csv", "json", "md"};
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<ReportFormat>(i);
  const std::string near = nearest_name(name, names);
  throw Error(Category::usage, {.doing = "reading --format",
                                .found = fmt::format("`{}`", name),
                                .expected = "table, csv, json or md",
                                .next = near.empty() ? "" : fmt::format("did you mean `{}`?", near)});
}

std::string print_report(const Report& report, ReportFormat format) {
  switch (format) {
    case ReportFormat::table:
      return print_table(report);
    case ReportFormat::csv:
      return print_csv(report);
    case ReportFormat::json:
      return print_json(report);
    case ReportFormat::md:
      return print_markdown(report);
  }
  return {};
}

}  // namespace kvgrind::replay
