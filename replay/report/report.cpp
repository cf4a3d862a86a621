#include "replay/report/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/metrics/metrics.h"
#include "replay/report/bootstrap.h"
#include "replay/statistics/ranks.h"
#include "sim/engine/policy.h"

namespace kvgrind::replay {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::string base_name(const std::string& preset) { return preset.substr(0, preset.find('(')); }

Standing standing_of(const std::string& preset) {
  const std::string name = base_name(preset);
  return name == "full" || name == "random" || name == "oracle" || name == "oracle_step" ? Standing::reference
                                                                                         : Standing::ranked;
}

double field(const traces::ResultRow& row, const std::string& name) {
  if (name == "kept_frac") return row.kept_frac;
  if (name == "stored_frac") return row.stored_frac;
  if (name == "touched_frac") return row.touched_frac;
  if (name == "kept_tokens_mean") return row.kept_tokens_mean;
  const auto it = row.metrics.find(name);
  if (it != row.metrics.end()) return it->second.value;
  const json::value* more = row.more.if_contains(name);
  return more && more->is_number() ? more->to_number<double>() : nan;
}

// Amounts in reading order: fractions, removed shares, tokens, bytes; small to large kept.
std::pair<int, double> amount_order(const traces::ResultRow& row) {
  if (row.budget_keep) return {0, *row.budget_keep};
  if (row.budget_removed) return {1, -*row.budget_removed};
  try {
    const sim::Amount amount = sim::parse_amount(row.budget_asked);
    return {2 + static_cast<int>(amount.kind), amount.value};
  } catch (const Error&) {
    return {9, 0};  // an amount of another tool's: after the rest
  }
}

std::string choose_headline(const std::vector<const traces::ResultRow*>& rows, const std::string& asked) {
  if (!asked.empty()) return asked;
  for (const char* name : {"dprob", default_headline, "D.answer", "predicted_dprob.all", "D.all", "S.answer", "S.all",
                           "recall.answer", "recall.all"})
    for (const traces::ResultRow* row : rows)
      if (!std::isnan(field(*row, name))) return name;
  return default_headline;
}

std::vector<std::string> choose_columns(const std::vector<const traces::ResultRow*>& rows, const std::string& headline,
                                        const std::vector<std::string>& asked) {
  std::vector<std::string> out = {headline};
  const auto add = [&](const std::string& name) {
    if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  };
  if (!asked.empty()) {
    for (const std::string& name : asked) add(name);
    return out;
  }
  const std::size_t dot = headline.find('.');
  const std::string set = dot == std::string::npos ? "answer" : headline.substr(dot + 1);
  std::vector<std::string> usual;
  if (!rows.empty() && rows.front()->loop == "closed")
    usual = {"answer_exact", "content_accuracy", "token_accuracy", "dnll", "kl", "top1"};
  else
    usual = {"S." + set, "E." + set, "recall." + set, "span_kept_frac.needle"};
  for (const std::string& name : usual)
    if (std::any_of(rows.begin(), rows.end(), [&](const auto* row) { return !std::isnan(field(*row, name)); }))
      add(name);
  for (const char* name : {"kept_frac", "stored_frac", "touched_frac"}) add(name);
  if (!rows.empty() && !std::isnan(field(*rows.front(), "stored_bytes"))) add("stored_bytes");
  return out;
}

using Rows = std::vector<const traces::ResultRow*>;

bool rows_over_budget(const Rows& rows) {
  double stored = 0, n = 0;
  for (const traces::ResultRow* row : rows)
    if (row->status == "ok" && !std::isnan(row->stored_frac)) stored += row->stored_frac, ++n;
  const double keep = rows.front()->budget_keep      ? *rows.front()->budget_keep
                      : rows.front()->budget_removed ? 1 - *rows.front()->budget_removed
                                                     : nan;
  return n > 0 && over_budget(stored / n, keep);
}

// What the bootstrap draws: contexts; sequences when all of them share one context.
class Prompts {
 public:
  explicit Prompts(const Rows& rows) {
    std::set<std::string> contexts, sequences;
    for (const traces::ResultRow* row : rows) {
      contexts.insert(context_key(*row));
      sequences.insert(sequence_key(*row));
    }
    by_sequence_ = contexts.size() == 1 && sequences.size() > 1;
    const auto& units = by_sequence_ ? sequences : contexts;
    names_.assign(units.begin(), units.end());
  }
  std::int64_t count() const { return static_cast<std::int64_t>(names_.size()); }
  bool by_sequence() const { return by_sequence_; }
  // Mean of a figure per prompt (over its sequences and seeds), NaN where there is none.
  std::vector<double> values(const Rows& rows, const std::string& name) const {
    std::vector<double> sum(names_.size(), 0.0), n(names_.size(), 0.0);
    for (const traces::ResultRow* row : rows) {
      const double value = row->status == "ok" ? field(*row, name) : nan;
      if (std::isnan(value)) continue;
      const std::string key = by_sequence_ ? sequence_key(*row) : context_key(*row);
      const auto at = static_cast<std::size_t>(std::lower_bound(names_.begin(), names_.end(), key) - names_.begin());
      sum[at] += value;
      ++n[at];
    }
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = n[i] > 0 ? sum[i] / n[i] : nan;
    return sum;
  }

 private:
  static std::string context_key(const traces::ResultRow& row) {
    return fmt::format("{}/{:012}", row.trace, row.context);
  }
  static std::string sequence_key(const traces::ResultRow& row) {
    return fmt::format("{}/{:012}", row.trace, row.sequence);
  }
  bool by_sequence_ = false;
  std::vector<std::string> names_;  // ascending
};

std::string figure_text(const Estimate& e) {
  if (std::isnan(e.lo)) return fmt::format("{:.3f}", e.value);
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", e.value, e.lo, e.hi);
}

std::string table_verdict(const ReportTable& table, const std::vector<std::vector<double>>& headline_values,
                          const Bootstrap& bootstrap) {
  const auto ranked = [&](std::size_t i) {
    return i < table.rows.size() && table.rows[i].standing == Standing::ranked && !std::isnan(table.rows[i].rank);
  };
  if (!ranked(0)) return {};
  const Estimate best = table.rows[0].values.at(table.headline);
  const std::string words = budget_words(table);
  std::string text = fmt::format("At {}, {} loses least: {} {} over {} prompt{}", words, table.rows[0].preset,
                                 table.headline, figure_text(best), best.n, best.n == 1 ? "" : "s");
  if (!ranked(1)) return text + ".";
  const Estimate next = table.rows[1].values.at(table.headline);
  text += fmt::format("; next best {} {}", table.rows[1].preset, figure_text(next));
  if (std::isnan(best.lo) || std::isnan(next.lo)) return text + "; too few prompts for an interval.";
  const bool overlap = best.hi >= next.lo && next.hi >= best.lo;
  text += overlap ? "; intervals overlap" : "; intervals do not overlap";
  const Estimate gap = bootstrap.difference(headline_values[1], headline_values[0]);
  return text + fmt::format(", paired difference {}.", figure_text(gap));
}

class Builder {
 public:
  explicit Builder(const ReportOptions& options) : options_(options) {
    report_.seed = options.seed;
    report_.resamples = options.resamples;
    report_.confidence = options.confidence;
  }

  void add_table(const Rows& rows);
  Report finish();
  void warn(std::string text) {
    if (std::find(report_.warnings.begin(), report_.warnings.end(), text) == report_.warnings.end())
      report_.warnings.push_back(std::move(text));
  }

 private:
  // What a policy kept beside what was asked for, in mean tokens a group.
  struct Deviation {
    std::string budget;
    double asked = 0, kept = 0;
  };
  void warn_of_rows(const ReportTable& table, const std::string& preset, const Rows& rows);
  const ReportOptions& options_;
  Report report_;
  std::map<std::array<std::string, 3>, std::vector<Deviation>> deviations_;  // preset, protocol, loop → budgets
};

// One line a policy, with the worst of its budgets: there may be many of either.
Report Builder::finish() {
  for (const auto& [which, at] : deviations_) {
    const auto off = [](const Deviation& d) { return std::abs(std::log(d.kept / d.asked)); };
    const Deviation& worst =
        *std::max_element(at.begin(), at.end(), [&](const auto& a, const auto& b) { return off(a) < off(b); });
    warn(fmt::format("{} at {}, {}: asked for {:.1f} tokens a group, kept {:.1f}{}", which[0], worst.budget, which[1],
                     worst.asked, worst.kept,
                     at.size() == 1 ? "" : fmt::format(" (the most of {} budgets with a difference)", at.size())));
  }
  return std::move(report_);
}

void Builder::warn_of_rows(const ReportTable& table, const std::string& preset, const Rows& rows) {
  std::int64_t nan_scores = 0, failed = 0, estimated = 0;
  double requested = 0, effective = 0, n = 0;
  std::string message;
  for (const traces::ResultRow* row : rows) {
    if (row->status != "ok") {
      ++failed;
      message = row->message;
      continue;
    }
    if (const double value = field(*row, "nan_scores"); value > 0) nan_scores += static_cast<std::int64_t>(value);
    const auto metric = row->metrics.find(table.headline);
    estimated += metric != row->metrics.end() && metric->second.kind == "estimated";
    const double asked = field(*row, "requested_tokens_mean"), got = field(*row, "effective_tokens_mean");
    if (std::isnan(asked) || std::isnan(got)) continue;
    requested += asked;
    effective += got;
    ++n;
  }
  const std::string where = fmt::format("{} at {}, {}", preset, budget_words(table), table.protocol);
  if (failed > 0) warn(fmt::format("{}: {} of {} jobs failed: {}", where, failed, rows.size(), message));
  if (nan_scores > 0) warn(fmt::format("{}: {} NaN scores, sorted last", where, nan_scores));
  if (estimated > 0) warn(fmt::format("{}: {} is estimated from part of the queries", table.protocol, table.headline));
  if (n > 0 && std::abs(requested - effective) > 0.5 * n)
    deviations_[{preset, table.protocol, table.loop}].push_back({budget_words(table), requested / n, effective / n});
}

void Builder::add_table(const Rows& rows) {
  ReportTable table;
  table.loop = rows.front()->loop;
  table.protocol = rows.front()->protocol;
  table.budget = rows.front()->budget_asked;
  if (rows.front()->budget_keep) table.budget_keep = *rows.front()->budget_keep;
  table.headline = choose_headline(rows, options_.headline);
  table.columns = choose_columns(rows, table.headline, options_.metrics);
  const Prompts prompts(rows);
  table.prompts = prompts.count();
  const Bootstrap bootstrap(prompts.count(), options_.resamples, options_.seed, options_.confidence);
  if (prompts.by_sequence()) warn("all sequences share one context: intervals are over its questions only");
  if (prompts.count() < 10)
    warn(fmt::format("{} prompt{}: intervals are wide, aim at 50", prompts.count(), prompts.count() == 1 ? "" : "s"));

  std::map<std::string, Rows> by_policy;  // canonical hash (or spelling) → rows
  std::vector<std::string> order;
  for (const traces::ResultRow* row : rows) {
    const std::string key = row->hash.empty() ? row->preset : row->hash;
    if (!by_policy.contains(key)) order.push_back(key);
    by_policy[key].push_back(row);
  }
  std::vector<std::vector<double>> headline_values;
  for (const std::string& key : order) {
    const Rows& own = by_policy[key];
    ReportRow out{.preset = own.front()->preset,
                  .policy = own.front()->policy,
                  .hash = own.front()->hash,
                  .standing = standing_of(own.front()->preset)};
    for (const std::string& name : table.columns) {
      const std::vector<double> values = prompts.values(own, name);
      out.values[name] = bootstrap.mean(values);
      if (name == table.headline) headline_values.push_back(values);
    }
    for (const traces::ResultRow* row : own)
      out.failed += row->status != "ok" || std::isnan(field(*row, table.headline));
    if (out.standing == Standing::ranked && rows_over_budget(own)) out.standing = Standing::over;
    warn_of_rows(table, out.preset, own);
    table.rows.push_back(std::move(out));
  }

  const double sign = higher_is_better(table.headline) ? -1.0 : 1.0;
  std::vector<std::size_t> ranked;
  std::vector<double> figures;
  for (std::size_t i = 0; i < table.rows.size(); ++i)
    if (const double value = table.rows[i].values.at(table.headline).value;
        table.rows[i].standing == Standing::ranked && !std::isnan(value)) {
      ranked.push_back(i);
      figures.push_back(sign * value);
    }
  const std::vector<double> ranks = average_ranks(figures);
  for (std::size_t i = 0; i < ranked.size(); ++i) table.rows[ranked[i]].rank = ranks[i];
  std::vector<std::size_t> sorted(table.rows.size());
  for (std::size_t i = 0; i < sorted.size(); ++i) sorted[i] = i;
  const auto place = [&](std::size_t i) {
    const ReportRow& row = table.rows[i];
    const double value = row.values.at(table.headline).value;
    return std::tuple(row.standing, std::isnan(value), std::isnan(value) ? 0.0 : sign * value, row.preset);
  };
  std::sort(sorted.begin(), sorted.end(), [&](std::size_t a, std::size_t b) { return place(a) < place(b); });
  std::vector<ReportRow> in_order;
  std::vector<std::vector<double>> values_in_order;
  for (const std::size_t i : sorted) {
    in_order.push_back(std::move(table.rows[i]));
    values_in_order.push_back(std::move(headline_values[i]));
  }
  table.rows = std::move(in_order);
  table.verdict = table_verdict(table, values_in_order, bootstrap);
  if (report_.tables.empty()) report_.headline = table.headline;
  report_.tables.push_back(std::move(table));
}

}  // namespace

bool over_budget(double stored_frac, double keep) { return stored_frac > 1.1 * keep + 0.01; }

bool higher_is_better(std::string_view metric) {
  for (const std::string_view start :
       {"recall", "top", "span_kept", "token_accuracy", "content_accuracy", "answer_exact", "accuracy"})
    if (metric.substr(0, start.size()) == start) return true;
  return false;
}

std::string budget_words(const ReportTable& table) {
  if (!std::isnan(table.budget_keep))
    return fmt::format("{} % kept", number_text(std::round(table.budget_keep * 1e6) / 1e4));
  if (table.budget.rfind("removed ", 0) == 0) {
    try {
      return fmt::format("{} % removed", number_text(std::round(std::stod(table.budget.substr(8)) * 1e6) / 1e4));
    } catch (const std::exception&) {
      return table.budget;  // not a number: as it stands
    }
  }
  if (!table.budget.empty() && table.budget.back() == 't')
    return fmt::format("{} tokens kept", table.budget.substr(0, table.budget.size() - 1));
  return table.budget.empty() ? std::string("an unnamed budget") : table.budget + " kept";
}

namespace {

// Error(usage) when rows that came out well have no such figure.
void require_figure(const std::vector<traces::ResultRow>& rows, const std::string& name) {
  std::set<std::string> names = {"kept_frac", "stored_frac", "touched_frac", "kept_tokens_mean"};
  bool any = false;
  for (const traces::ResultRow& row : rows) {
    if (row.status != "ok") continue;
    any = true;
    if (!std::isnan(field(row, name))) return;
    for (const auto& [metric, value] : row.metrics) names.insert(metric);
  }
  if (!any || names.contains(name)) return;
  const std::string near = nearest_name(name, {names.begin(), names.end()});
  throw Error(Category::usage,
              {.doing = "making a report",
               .on = "metric " + name,
               .found = "no result that has it",
               .expected = near.empty() ? fmt::format("one of {}", fmt::join(names, ", ")) : "perhaps " + near});
}

}  // namespace

Report build_report(const std::vector<traces::ResultRow>& rows, const ReportOptions& options) {
  if (!options.headline.empty()) require_figure(rows, options.headline);
  for (const std::string& metric : options.metrics) require_figure(rows, metric);
  // The same job twice (a retried error, merged files): the good row, else the later one.
  std::map<std::string, const traces::ResultRow*> jobs;
  for (const traces::ResultRow& row : rows) {
    const auto [it, fresh] = jobs.try_emplace(traces::job_key(row), &row);
    if (!fresh && it->second->status != "ok") it->second = &row;
  }
  using Key = std::tuple<std::string, std::string, std::pair<int, double>, std::string>;
  std::map<Key, Rows> tables;
  for (const auto& [key, row] : jobs) {
    if (!options.protocol.empty() && row->protocol != options.protocol) continue;
    if (!options.budgets.empty() &&
        std::find(options.budgets.begin(), options.budgets.end(), row->budget_asked) == options.budgets.end())
      continue;
    // blind before aware: names in the order of the protocols' own
    const std::string protocol = row->protocol == "blind" ? "0" : "1" + row->protocol;
    const std::string loop = row->loop == "open" ? "0" : "1" + row->loop;
    tables[{loop, protocol, amount_order(*row), row->budget_asked}].push_back(row);
  }
  Builder builder(options);
  for (auto& [key, table_rows] : tables) {
    std::sort(table_rows.begin(), table_rows.end(), [](const traces::ResultRow* a, const traces::ResultRow* b) {
      return std::tuple(a->preset, a->trace, a->sequence, a->seed) <
             std::tuple(b->preset, b->trace, b->sequence, b->seed);
    });
    builder.add_table(table_rows);
  }
  return builder.finish();
}

std::string verdict(const Report& report) {
  const ReportTable* best = nullptr;
  double widest = -1;
  for (const ReportTable& table : report.tables) {
    if (table.verdict.empty()) continue;
    if (best && (table.loop != best->loop || table.protocol != best->protocol)) break;
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (const ReportRow& row : table.rows) {
      const double value = row.values.at(table.headline).value;
      if (row.standing != Standing::ranked || std::isnan(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    if (high - low > widest) {
      widest = high - low;
      best = &table;
    }
  }
  return best ? best->verdict : std::string{};
}

}  // namespace kvgrind::replay
