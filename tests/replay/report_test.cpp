// Reports against numbers worked out by hand.
#include "replay/report/report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "replay/report/bootstrap.h"
#include "replay/report/compare.h"
#include "replay/statistics/ranks.h"

namespace kvgrind::replay {
namespace {

traces::ResultRow row(const std::string& preset, double keep, std::int64_t sequence, double d,
                      const std::string& protocol = "blind", std::uint64_t seed = 0) {
  traces::ResultRow out;
  out.trace = "t";
  out.sequence = sequence;
  out.context = sequence / 2 * 2;  // two sequences a context
  out.preset = preset;
  out.policy = "line of " + preset;
  out.hash = "hash of " + preset;
  out.budget_keep = keep;
  out.budget_asked = keep == 0.2 ? "0.2" : "0.5";
  out.protocol = protocol;
  out.seed = seed;
  out.kept_frac = out.stored_frac = keep;
  out.metrics["D.answer"] = {.value = d};
  out.metrics["recall.answer"] = {.value = 1 - d};
  return out;
}

std::vector<traces::ResultRow> some_rows() {
  std::vector<traces::ResultRow> out;
  for (std::int64_t s = 0; s < 8; ++s) {
    const double x = static_cast<double>(s);
    out.push_back(row("snapkv", 0.2, s, 0.10 + 0.01 * x));
    out.push_back(row("tova", 0.2, s, 0.11 + 0.01 * x));
    out.push_back(row("knorm", 0.2, s, 0.11 + 0.01 * x));
    out.push_back(row("random", 0.2, s, 0.9, "blind", 0));
    out.push_back(row("random", 0.2, s, 0.7, "blind", 1));
    out.push_back(row("oracle", 0.2, s, 0.0));
    out.push_back(row("snapkv", 0.5, s, 0.02));
    out.push_back(row("tova", 0.5, s, 0.015));
    out.push_back(row("snapkv", 0.2, s, 0.05, "aware"));
  }
  return out;
}

const ReportRow& find(const ReportTable& table, const std::string& preset) {
  for (const ReportRow& r : table.rows)
    if (r.preset == preset) return r;
  throw std::runtime_error("no " + preset);
}

TEST(Report, NumbersByHand) {
  const Report report = build_report(some_rows());
  ASSERT_EQ(report.tables.size(), 3u);  // blind 20 %, blind 50 %, aware 20 %: never mixed
  const ReportTable& table = report.tables[0];
  EXPECT_EQ(table.protocol, "blind");
  EXPECT_EQ(table.budget_keep, 0.2);
  EXPECT_EQ(report.tables[1].budget_keep, 0.5);
  EXPECT_EQ(report.tables[2].protocol, "aware");
  EXPECT_EQ(table.headline, "D.answer");
  EXPECT_EQ(table.prompts, 4);
  // Contexts {0,1} {2,3} {4,5} {6,7}: means 0.105, 0.125, 0.145, 0.165.
  const Estimate d = find(table, "snapkv").values.at("D.answer");
  EXPECT_NEAR(d.value, 0.135, 1e-12);
  EXPECT_EQ(d.n, 4);
  // The bootstrap, drawn again here.
  const double prompts[4] = {0.105, 0.125, 0.145, 0.165};
  std::vector<double> means;
  for (std::int64_t r = 0; r < 2000; ++r) {
    double sum = 0;
    for (const std::int64_t i : bootstrap_indices(1, r, 4)) sum += prompts[i];
    means.push_back(sum / 4);
  }
  EXPECT_NEAR(d.lo, quantile(means, 0.025), 1e-12);
  EXPECT_NEAR(d.hi, quantile(means, 0.975), 1e-12);
  EXPECT_LT(d.lo, d.value);
  EXPECT_GT(d.hi, d.value);
  // Ranks with a tie; references apart; seeds averaged within a prompt.
  EXPECT_EQ(find(table, "snapkv").rank, 1.0);
  EXPECT_EQ(find(table, "tova").rank, 2.5);
  EXPECT_EQ(find(table, "knorm").rank, 2.5);
  EXPECT_TRUE(std::isnan(find(table, "random").rank));
  EXPECT_NEAR(find(table, "random").values.at("D.answer").value, 0.8, 1e-12);
  EXPECT_EQ(table.rows.back().standing, Standing::reference);
  EXPECT_EQ(table.rows[0].preset, "snapkv");
  EXPECT_EQ(report.tables[1].rows[0].preset, "tova");
}

// A method of fixed size would win every tight budget by ignoring it.
TEST(Report, WhatStoresMoreThanTheBudgetIsNotRankedBesideIt) {
  std::vector<traces::ResultRow> rows = some_rows();
  for (std::int64_t s = 0; s < 8; ++s) {
    rows.push_back(row("kvdirect", 0.2, s, 0.0));
    rows.back().stored_frac = 1.0;
    rows.push_back(row("cur", 0.2, s, 0.5));
    rows.back().stored_frac = 0.22;  // scales and protected tokens may add a little
  }
  const Report report = build_report(rows);
  const ReportTable& table = report.tables[0];
  EXPECT_EQ(find(table, "kvdirect").standing, Standing::over);
  EXPECT_TRUE(std::isnan(find(table, "kvdirect").rank));
  EXPECT_EQ(find(table, "cur").standing, Standing::ranked);
  EXPECT_EQ(table.rows[0].preset, "snapkv");
  EXPECT_EQ(table.verdict.find("kvdirect"), std::string::npos) << table.verdict;
  EXPECT_NE(print_report(report, ReportFormat::table).find("over "), std::string::npos);
  EXPECT_NE(print_report(report, ReportFormat::csv).find(",over,kvdirect,"), std::string::npos);
}

TEST(Report, TheVerdictSaysWhatTheIntervalsSay) {
  const Report report = build_report(some_rows());
  EXPECT_EQ(report.tables[0].verdict.rfind("At 20 % kept, snapkv loses least: D.answer 0.135 [", 0), 0u)
      << report.tables[0].verdict;
  EXPECT_NE(report.tables[0].verdict.find("next best knorm 0.145"), std::string::npos);
  EXPECT_NE(report.tables[0].verdict.find("paired difference 0.010 [0.010, 0.010]"), std::string::npos);
  EXPECT_NE(report.tables[0].verdict.find("intervals overlap"), std::string::npos);
  EXPECT_NE(report.tables[1].verdict.find("intervals do not overlap"), std::string::npos);
  EXPECT_EQ(verdict(report), report.tables[0].verdict);
  // Nothing but references: nothing to say.
  EXPECT_TRUE(build_report({row("random", 0.2, 0, 0.5)}).tables[0].verdict.empty());
  EXPECT_TRUE(build_report({}).tables.empty());
}

TEST(Report, HigherIsBetterTurnsTheOrder) {
  const Report report = build_report(some_rows(), {.headline = "recall.answer"});
  EXPECT_EQ(report.tables[0].rows[0].preset, "snapkv");
  EXPECT_EQ(find(report.tables[0], "snapkv").rank, 1.0);
}

TEST(Report, FailuresAndDeviationsAreWarnedOf) {
  auto rows = some_rows();
  rows[0].status = "error";
  rows[0].message = "no signal spans";
  rows[0].metrics.clear();
  rows[1].more["requested_tokens_mean"] = 100.0;
  rows[1].more["effective_tokens_mean"] = 90.0;
  const Report report = build_report(rows);
  std::string all;
  for (const std::string& warning : report.warnings) all += warning + "\n";
  EXPECT_NE(all.find("snapkv at 20 % kept, blind: 1 of 8 jobs failed: no signal spans"), std::string::npos) << all;
  EXPECT_NE(all.find("asked for 100.0 tokens a group, kept 90.0"), std::string::npos) << all;
  EXPECT_NE(all.find("4 prompts: intervals are wide"), std::string::npos) << all;
  EXPECT_EQ(find(report.tables[0], "snapkv").failed, 1);
  // Many budgets, one line: the worst of them.
  for (auto& one : rows)
    if (one.preset == "tova" && one.budget_asked != "0.2") {
      one.more["requested_tokens_mean"] = 100.0;
      one.more["effective_tokens_mean"] = 50.0;
    }
  std::int64_t lines = 0;
  for (const std::string& warning : build_report(rows).warnings)
    if (warning.find("asked for") != std::string::npos) {
      ++lines;
      EXPECT_NE(warning.find("asked for 100.0 tokens a group, kept 50.0 (the most of 2 budgets"), std::string::npos)
          << warning;
    }
  EXPECT_EQ(lines, 1);
  // A later good row of the same job takes the error's place.
  rows.push_back(some_rows()[0]);
  EXPECT_EQ(find(build_report(rows).tables[0], "snapkv").failed, 0);
}

TEST(Report, EveryFormatHoldsTheFigures) {
  const Report report = build_report(some_rows());
  for (const ReportFormat format : {ReportFormat::table, ReportFormat::csv, ReportFormat::json, ReportFormat::md}) {
    const std::string text = print_report(report, format);
    EXPECT_NE(text.find("snapkv"), std::string::npos);
    EXPECT_NE(text.find("0.135"), std::string::npos) << text;
    EXPECT_EQ(text, print_report(build_report(some_rows()), format));
  }
  const json::value parsed = parse_json(print_report(report, ReportFormat::json), "report");
  EXPECT_EQ(parsed.at("tables").at(0).at("rows").at(0).at("preset").as_string(), "snapkv");
  EXPECT_THROW((void)report_format_from_name("yaml"), Error);
  EXPECT_EQ(print_report(build_report({}), ReportFormat::table), "no result rows\n");
}

TEST(Report, BudgetsInWords) {
  EXPECT_EQ(budget_words({.budget = "0.2", .budget_keep = 0.2}), "20 % kept");
  EXPECT_EQ(budget_words({.budget = "0.125", .budget_keep = 0.125}), "12.5 % kept");
  EXPECT_EQ(budget_words({.budget = "512t"}), "512 tokens kept");
  EXPECT_EQ(budget_words({.budget = "removed 0.8"}), "80 % removed");
  EXPECT_EQ(budget_words({.budget = "67108864B"}), "67108864B kept");
}

TEST(Pareto, OfManyPoliciesTheBestAreDrawn) {
  std::vector<traces::ResultRow> rows;
  for (int i = 0; i < 40; ++i)
    for (const double keep : {0.2, 0.5})
      rows.push_back(row("policy" + std::to_string(10 + i), keep, 0, 0.01 * (40 - i) + (keep == 0.2 ? 0.1 : 0.0)));
  const std::string svg = pareto_svg(build_report(rows));
  EXPECT_NE(svg.find("the 16 best of 40 policies"), std::string::npos);
  EXPECT_NE(svg.find(">policy49<"), std::string::npos);
  EXPECT_NE(svg.find(">policy34<"), std::string::npos);
  EXPECT_EQ(svg.find(">policy33<"), std::string::npos);
}

TEST(Pareto, DrawsEveryPolicyOnceAndIsStable) {
  const Report report = build_report(some_rows());
  const std::string svg = pareto_svg(report);
  EXPECT_EQ(svg, pareto_svg(build_report(some_rows())));
  EXPECT_EQ(svg.rfind("<svg", 0), 0u);
  for (const char* name : {"snapkv", "tova", "knorm", "oracle (ref)", "random (ref)"})
    EXPECT_NE(svg.find(name), std::string::npos) << name;
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_THROW((void)pareto_svg(build_report({})), Error);
  EXPECT_THROW((void)pareto_svg(report, {.y = "absent"}), Error);
  auto rows = some_rows();
  rows[0].preset = "<b>&\"";
  EXPECT_EQ(pareto_svg(build_report(rows)).find("<b>"), std::string::npos);
}

TEST(Compare, PairsJobsAndFindsCrossings) {
  const auto a = some_rows();
  auto b = some_rows();
  for (auto& r : b)
    if (r.preset == "tova") r.metrics["D.answer"].value += 0.03;
  b.pop_back();
  const Comparison same = compare_results(a, a, {parse_threshold("|delta(D.answer)|>0.001")});
  EXPECT_EQ(same.different, 0);
  EXPECT_TRUE(same.failures.empty());
  const Comparison c =
      compare_results(a, b, {parse_threshold("delta(D.answer) > 0.02"), parse_threshold("recall.answer<0.05")});
  EXPECT_EQ(c.paired, static_cast<std::int64_t>(b.size()));
  EXPECT_EQ(c.only_a, 1);
  EXPECT_EQ(c.different, 16);
  EXPECT_EQ(c.failures.size(), 16u);
  bool found = false;
  for (const CompareRow& r : c.rows)
    if (r.preset == "tova" && r.budget == "0.2" && r.metric == "D.answer") {
      found = true;
      EXPECT_NEAR(r.delta.value, 0.03, 1e-12);
      EXPECT_NEAR(r.delta.lo, 0.03, 1e-12);
      EXPECT_NEAR(r.a.value, 0.145, 1e-12);
    }
  EXPECT_TRUE(found);
  // A threshold on what no row has must not pass.
  EXPECT_EQ(compare_results(a, a, {parse_threshold("kl>0.1")}).failures.size(), 1u);
  for (const char* bad : {"D.answer", "D.answer>", ">1", "D>x", "D>nan", "D==1"})
    EXPECT_THROW((void)parse_threshold(bad), Error) << bad;
  for (const ReportFormat format : {ReportFormat::table, ReportFormat::csv, ReportFormat::json, ReportFormat::md})
    EXPECT_NE(print_comparison(c, format).find("tova"), std::string::npos);
}

TEST(Bootstrap, MissingPromptsAndSingles) {
  const Bootstrap bootstrap(3, 500, 1, 0.95);
  const double values[3] = {1.0, std::nan(""), 3.0};
  const Estimate e = bootstrap.mean(values);
  EXPECT_EQ(e.n, 2);
  EXPECT_EQ(e.value, 2.0);
  EXPECT_EQ(e.lo, 1.0);
  EXPECT_EQ(e.hi, 3.0);
  const double one[3] = {std::nan(""), std::nan(""), 3.0};
  EXPECT_EQ(bootstrap.mean(one).value, 3.0);
  EXPECT_TRUE(std::isnan(bootstrap.mean(one).lo));
}

}  // namespace
}  // namespace kvgrind::replay
