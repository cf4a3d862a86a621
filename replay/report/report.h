// Result rows → what they say: per budget a ranked table with intervals over prompts, and a verdict in one sentence.
// Blind and aware are never in one list; nor are open and closed loop.
#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "traces/results/result_row.h"

namespace kvgrind::replay {

// A mean over prompts with its bootstrap interval.
struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  double lo = std::numeric_limits<double>::quiet_NaN(), hi = std::numeric_limits<double>::quiet_NaN();
  std::int64_t n = 0;  // prompts
};

struct ReportOptions {
  std::string headline;              // ranks by this; empty = dprob (closed loop), predicted_dprob, else D, S, recall
  std::vector<std::string> metrics;  // columns after it; empty = those that are there of the usual ones
  std::vector<std::string> budgets;  // only these amounts (as in budget_asked); empty = all
  std::string protocol;              // only this; empty = all, in lists of their own
  std::int64_t resamples = 2000;
  std::uint64_t seed = 1;
  double confidence = 0.95;
};

// Stores more than the fraction `keep`, beyond rounding and what scales and protected tokens add.
bool over_budget(double stored_frac, double keep);

// over: stores more than the budget (methods of fixed size, retrieval, codes of the rest), so it is not ranked beside
// those that keep to it; reference: full, random (null), oracles.
enum class Standing : std::uint8_t { ranked, over, reference };

struct ReportRow {
  std::string preset, policy, hash;
  Standing standing = Standing::ranked;
  double rank = std::numeric_limits<double>::quiet_NaN();  // average ranks for ties; NaN for references
  std::map<std::string, Estimate> values;                  // metrics and kept_frac, stored_frac, touched_frac
  std::int64_t failed = 0;                                 // jobs without a figure
};

struct ReportTable {
  std::string loop, protocol, budget;
  std::string headline;  // what this table is ranked by
  double budget_keep = std::numeric_limits<double>::quiet_NaN();
  std::vector<std::string> columns;  // headline first
  std::vector<ReportRow> rows;       // by headline; the ranked, those over the budget, references
  std::int64_t prompts = 0;          // what the bootstrap draws: contexts, or sequences when all share one context
  std::string verdict;               // one sentence with the interval; empty when nothing is ranked
};

struct Report {
  std::string headline;               // of the first table
  std::vector<ReportTable> tables;    // by loop, protocol, then budget ascending
  std::vector<std::string> warnings;  // effective ≠ requested, failed jobs, few prompts, NaN scores
  std::uint64_t seed = 1;
  std::int64_t resamples = 0;
  double confidence = 0.95;
  std::vector<std::string> trust;  // what open-loop figures are worth on this model (replay/report/trust.h)
  json::value trust_block;         // what `kvgrind validate` wrote; null = none
};

Report build_report(const std::vector<traces::ResultRow>& rows, const ReportOptions& options = {});

enum class ReportFormat : std::uint8_t { table, csv, json, md };
ReportFormat report_format_from_name(std::string_view name);  // Error(usage)
std::string print_report(const Report& report, ReportFormat format);
// Of the budget of the first list where the figures of the policies lie furthest apart; for a dashboard. Empty:
// nothing.
std::string verdict(const Report& report);
bool higher_is_better(std::string_view metric);
std::string budget_words(const ReportTable& table);  // "20 % kept", "512 tokens kept", "80 % removed"

// Loss against bytes: points with bars, lower hull, references dashed. SVG text, byte-identical for equal input.
struct ParetoOptions {
  std::string x = "stored_frac";  // kept_frac | stored_frac | touched_frac
  std::string y;                  // empty = the headline
  std::string loop, protocol;     // which list; empty = the first
  std::string title;
  int width = 860, height = 560;
};
std::string pareto_svg(const Report& report, const ParetoOptions& options = {});

}  // namespace kvgrind::replay
