// Results without a trace, and one file held against another: models by their oracles, and in the window.
#include <gtest/gtest.h>

#include <QFile>
#include <QTemporaryDir>
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "gui/models/metric_diff.h"
#include "gui/models/result_budgets.h"
#include "gui/models/trace_diff.h"
#include "gui/render/picture.h"
#include "gui/render/render_command.h"
#include "gui/window/example.h"
#include "tests/gui/odd_runs.h"
#include "tests/gui/window_support.h"
#include "traces/results/results_file.h"

namespace kvgrind::gui {
namespace {

using tests::wait_for;

// Rows of three policies at two budgets over four prompts; `shift` moves the figure of knorm.
std::vector<traces::ResultRow> made_rows(double shift) {
  std::vector<traces::ResultRow> out;
  std::int64_t job = 0;
  for (const char* policy : {"snapkv", "knorm", "window"})
    for (const double keep : {0.1, 0.2})
      for (std::int64_t prompt = 0; prompt < 4; ++prompt) {
        traces::ResultRow row;
        row.job = job++;
        row.trace = "0123456789abcdef";
        row.sequence = row.context = prompt;
        row.policy = row.preset = policy;
        row.hash = std::string("h") + policy;
        row.budget_asked = keep == 0.1 ? "0.1" : "0.2";
        row.budget_keep = keep;
        row.protocol = "blind";
        row.kept_frac = row.stored_frac = keep;
        row.kept_tokens_mean = 100 * keep;
        row.kept_tokens_min = std::int64_t(90 * keep);
        row.kept_tokens_max = std::int64_t(110 * keep);
        const double base = policy == std::string("snapkv") ? 0.1 : policy == std::string("knorm") ? 0.3 : 0.5;
        row.metrics["D.answer"] = {
            .value = base + 0.01 * double(prompt) - keep / 10 + (policy == std::string("knorm") ? shift : 0), .n = 10};
        out.push_back(row);
      }
  return out;
}

QString write_rows(const QTemporaryDir& folder, const char* name, const std::vector<traces::ResultRow>& rows) {
  const QString path = folder.filePath(name);
  QFile file(path);
  if (!file.open(QIODevice::WriteOnly)) ADD_FAILURE();
  for (const traces::ResultRow& row : rows) file.write((json_text(traces::to_json(row)) + "\n").c_str());
  return path;
}

TEST(MetricDiff, IsThePairedDifference) {
  const MetricDiff diff = metric_diff(made_rows(0), made_rows(-0.05), "", "a", "b");
  EXPECT_EQ(diff.metric, "D.answer");
  EXPECT_EQ(diff.paired, 24);
  ASSERT_EQ(diff.rows.size(), 6u);
  for (const MetricDiffRow& row : diff.rows)
    EXPECT_NEAR(row.delta.value, row.policy == "knorm" ? -0.05 : 0.0, 1e-12) << row.policy;
  EXPECT_EQ(diff.rows[0].policy, "knorm");  // the largest of its budget first
  EXPECT_LT(diff.rows[0].delta.hi, 0);
  const MetricDiff best = metric_diff_to_best(made_rows(0), "");
  ASSERT_EQ(best.rows.size(), 4u);  // two others at two budgets
  EXPECT_EQ(best.rows[0].policy, "window against snapkv");
  EXPECT_NEAR(best.rows[0].delta.value, 0.4, 1e-12);
  EXPECT_TRUE(metric_diff(made_rows(0), {}, "D.answer", "a", "b").rows.empty());
}

TEST(MetricDiff, TakesAFigureThatBothHave) {
  auto a = made_rows(0), b = made_rows(0.1);
  for (traces::ResultRow& row : a) row.metrics["recall.all"] = {.value = 0.5, .n = 10}, row.metrics.erase("D.answer");
  for (traces::ResultRow& row : b) row.metrics["recall.all"] = {.value = 0.75, .n = 10};
  const MetricDiff diff = metric_diff(a, b, "", "a", "b");
  EXPECT_EQ(diff.metric, "recall.all");
  ASSERT_EQ(diff.rows.size(), 6u);
  EXPECT_NEAR(diff.rows[0].delta.value, 0.25, 1e-12);
}

TEST(ResultBudgets, AreMeansOverJobs) {
  const ResultBudgets budgets = result_budgets(made_rows(0));
  EXPECT_EQ(budgets.policies, (std::vector<std::string>{"knorm", "snapkv", "window"}));
  EXPECT_EQ(budgets.budgets, (std::vector<std::string>{"0.1", "0.2"}));
  EXPECT_EQ(budgets.at(1, 1).jobs, 4);
  EXPECT_DOUBLE_EQ(budgets.at(1, 1).stored_frac, 0.2);
  EXPECT_EQ(budgets.at(1, 1).least, 18);
  EXPECT_TRUE(result_budgets({}).cells.empty());
}

TEST(TraceDiff, IsZeroToItselfAndNotToAnother) {
  ViewInput input = tests::input_over(tests::synthetic_run());
  input.base = input.session;
  input.base_name = "same";
  const TraceDiff same = trace_diff(input, {});
  for (const HeadDiff& one : same.of) EXPECT_EQ(one.decades, 0);
  EXPECT_EQ(same.first_other_token, -1);
  input.base = std::make_shared<const replay::Session>(tests::synthetic_run({.seed = 2}), nullptr);
  const TraceDiff other = trace_diff(input, {});
  for (const HeadDiff& one : other.of) EXPECT_GT(one.decades, 0.05);
  input.base = std::make_shared<const replay::Session>(tests::synthetic_run({.layers = 1}), nullptr);
  EXPECT_THROW((void)trace_diff(input, {}), Error);
}

TEST(TraceDiff, TheMapShowsTheDifference) {
  ViewInput input = tests::input_over(tests::synthetic_run());
  input.base = input.session;
  input.base_tiles = std::make_shared<TilePyramid>(input.base);
  input.map.difference = true;
  const auto middle = [](const ViewInput& of) {  // pixels in the colour of "no difference"
    const QImage image =
        scene_image(*view_named("attention").load(of, {}), look_of("light", 0), {.size = {700, 600}, .notes = {}});
    int n = 0;
    for (int y = 0; y < image.height(); ++y)
      for (int x = 0; x < image.width(); ++x) n += image.pixel(x, y) == diverging_table()[127];
    return n;
  };
  const int equal = middle(input);
  input.base = std::make_shared<const replay::Session>(tests::synthetic_run({.seed = 2}), nullptr);
  input.base_tiles = std::make_shared<TilePyramid>(input.base);
  EXPECT_GT(equal, 50'000);  // all of the causal area
  EXPECT_GT(equal, 4 * middle(input));
}

class Alone : public testing::Test {
 protected:
  Alone() : window(true) { window.show(); }
  QTemporaryDir folder;
  MainWindow window;
};

TEST_F(Alone, ResultsOpenWithoutTheirTrace) {
  window.open_file(write_rows(folder, "r.jsonl", made_rows(0)));
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  for (int i = 0; i < window.tabs().count(); ++i) {
    window.go_to_view(i);
    ASSERT_TRUE(tests::settled(window)) << window.view(i).row().name;
    const std::string name = window.current()->row().name;
    const bool shows = name == "dashboard" || name == "pareto" || name == "budget" || name == "diff";
    EXPECT_EQ(window.current()->scene()->csv().empty(), !shows) << name;
    if (!shows) {
      EXPECT_TRUE(window.current()->scene()->alt_text().contains("0123456789abcdef")) << name;  // which trace
    }
    for (const Qt::Key key : {Qt::Key_Right, Qt::Key_Down, Qt::Key_PageDown, Qt::Key_Plus, Qt::Key_Space})
      QTest::keyClick(window.current(), key);
    ASSERT_TRUE(tests::settled(window)) << name;
  }
  EXPECT_TRUE(window.render_command().startsWith("kvgrind render"));
  window.go_to_view(tests::view_index(window, "budget"));
  ASSERT_TRUE(tests::settled(window));
  for (const char* ending : {"png", "npy"}) {
    const QString path = folder.filePath(QString("out.") + ending);
    window.export_view(path);
    EXPECT_TRUE(wait_for([&] { return QFile::exists(path); })) << ending;
  }
}

TEST_F(Alone, TwoResultFilesAreCompared) {
  window.open_file(write_rows(folder, "b.jsonl", made_rows(-0.05)));
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  window.open_base(write_rows(folder, "a.jsonl", made_rows(0)));
  ASSERT_TRUE(wait_for([&] { return window.desk().input().base_rows != nullptr; }));
  ASSERT_TRUE(tests::settled(window));
  EXPECT_STREQ(window.current()->row().name, "diff");
  EXPECT_TRUE(window.current()->scene()->subtitle().contains("a.jsonl"));
  EXPECT_NE(window.current()->scene()->csv().find("knorm,0.1,blind,D.answer"), std::string::npos);
  EXPECT_TRUE(window.render_command().contains("--diff"));
}

TEST_F(Alone, TwoTracesAreCompared) {
  window.open_file(example_trace());
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  window.open_base(example_trace());
  ASSERT_TRUE(wait_for([&] { return window.desk().input().base != nullptr; }));
  ASSERT_TRUE(tests::settled(window));
  EXPECT_TRUE(window.current()->scene()->subtitle().contains("equal texts"));
  window.go_to_view(tests::view_index(window, "attention"));
  ASSERT_TRUE(tests::settled(window));
  EXPECT_TRUE(window.current()->scene()->title().contains("against the other trace"));
  QTest::keyClick(window.current(), Qt::Key_D);
  ASSERT_TRUE(tests::settled(window));
  EXPECT_FALSE(window.current()->scene()->title().contains("against the other trace"));
}

TEST_F(Alone, PoliciesRunOnBothTraces) {
  window.open_file(example_trace());
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  window.desk().add_policy("knorm", "0.2");
  window.open_base(example_trace());
  ASSERT_TRUE(wait_for([&] { return window.desk().input().base != nullptr; }));
  window.desk().add_policy("window", "0.1");
  const auto both = [&] {
    const auto rows = window.desk().input().base_rows;
    return rows && rows->size() == 4 && window.runner().idle();  // two policies on two sequences
  };
  ASSERT_TRUE(wait_for(both));
  // The same recording: the same figures.
  const MetricDiff diff = metric_diff(*window.desk().input().base_rows, *window.desk().input().rows, "", "a", "b");
  EXPECT_EQ(diff.paired, 4);
  ASSERT_EQ(diff.rows.size(), 2u);
  for (const MetricDiffRow& row : diff.rows) EXPECT_EQ(row.delta.value, 0) << row.policy;
  ASSERT_TRUE(tests::settled(window));
  (void)window.current()->grab();
  const auto& hits = window.current()->hits();
  EXPECT_TRUE(std::any_of(hits.begin(), hits.end(), [](const HitArea& area) {
    const auto hit = area.at(area.area.center());
    return hit && hit->text.startsWith("knorm at 0.2");
  }));
  window.desk().remove_policy(1);
  EXPECT_EQ(window.desk().input().base_rows->size(), 2u);
}

TEST(RenderAlone, ComparesTwoFiles) {
  QTemporaryDir folder;
  const QString a = write_rows(folder, "a.jsonl", made_rows(0)), b = write_rows(folder, "b.jsonl", made_rows(-0.05));
  const auto render = [&](const QStringList& words) { return render_command(words); };
  EXPECT_EQ(render({b, "--view", "diff", "--diff", a, "-o", folder.filePath("d.csv")}), 0);
  EXPECT_EQ(render({b, "--view", "budget", "-o", folder.filePath("b.npy")}), 0);
  EXPECT_EQ(render({b, "--view", "attention", "-o", folder.filePath("x.png")}), exit_code(Category::usage));
  EXPECT_EQ(render({example_trace(), "--view", "attention", "--diff", example_trace(), "--difference", "-o",
                    folder.filePath("e.png")}),
            0);
  EXPECT_EQ(render({example_trace(), "--view", "diff", "--diff", example_trace(), "--policy", "knorm", "-o",
                    folder.filePath("f.png")}),
            0);
  EXPECT_EQ(render({example_trace(), "--view", "pareto", "--policy", "knorm", "-o", folder.filePath("p.npy")}),
            exit_code(Category::usage));  // points are no array
}

}  // namespace
}  // namespace kvgrind::gui
