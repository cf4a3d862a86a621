// Choosing jobs on the Pareto front, ranges by the brush, and views by the cards of the dashboard.
#include <gtest/gtest.h>

#include <QApplication>
#include <QInputDialog>
#include <QTemporaryDir>
#include <QTimer>
#include <algorithm>
#include <set>

#include "core/json.h"
#include "gui/models/pareto.h"
#include "gui/render/picture.h"
#include "gui/window/example.h"
#include "tests/gui/window_support.h"

namespace kvgrind::gui {
namespace {

using tests::settled;
using tests::wait_for;

class Choosing : public testing::Test {
 protected:
  Choosing() : window(true) {
    window.resize(1400, 900);
    window.show();
    (void)QTest::qWaitForWindowExposed(&window);
    window.activateWindow();  // no window manager does it for us
    (void)QTest::qWaitForWindowActive(&window);
    window.open_file(example_trace());
    if (!wait_for([&] { return window.page() == MainWindow::workspace; })) ADD_FAILURE();
    for (const char* policy : {"snapkv", "knorm"})
      for (const char* budget : {"0.2", "10%"}) window.desk().add_policy(policy, budget);
    if (!wait_for([&] { return jobs().size() == 4 && window.runner().idle(); })) ADD_FAILURE();
  }
  const std::vector<ShownJob>& jobs() const { return const_cast<MainWindow&>(window).desk().input().jobs; }
  void go_to(const char* name) {
    window.go_to_view(tests::view_index(window, name));
    ASSERT_TRUE(settled(window)) << name;
  }
  // Where the picture answers with these words.
  QPoint place_of(const QString& words) {
    (void)window.current()->grab();
    for (const HitArea& area : window.current()->hits())
      if (const auto hit = area.at(area.area.center()); hit && hit->text.startsWith(words))
        return area.area.center().toPoint();
    ADD_FAILURE() << "nothing says " << words.toStdString();
    return {};
  }
  MainWindow window;
};

TEST_F(Choosing, AClickOnAPointChoosesTheJobAndShiftAddsOne) {
  go_to("pareto");
  SceneWidget* view = window.current();
  QTest::mouseClick(view, Qt::LeftButton, {}, place_of("snapkv, 20 % kept"));
  EXPECT_EQ(window.desk().at().jobs, (std::vector<std::string>{"snapkv@0.2"}));
  ASSERT_EQ(jobs().size(), 1u);
  EXPECT_EQ(jobs()[0].asked.policy, "snapkv");
  EXPECT_EQ(window.desk().input().rows->size(), 8u);  // the front keeps all of them: four jobs on two sequences
  ASSERT_TRUE(settled(window));
  QTest::mouseClick(view, Qt::LeftButton, Qt::ShiftModifier, place_of("knorm, 10 % kept"));
  EXPECT_EQ(window.desk().at().jobs, (std::vector<std::string>{"knorm@0.1", "snapkv@0.2"}));
  EXPECT_EQ(jobs().size(), 2u);
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(view->scene()->subtitle().contains("2 chosen"));
  EXPECT_TRUE(window.render_command().contains("--choose 'knorm@0.1'"));
  // Every view shows these two alone; back and Esc bring the others again.
  go_to("kept");
  EXPECT_EQ(window.current()->scene()->matrix().shape[0], 2);
  QTest::keyClick(&window, Qt::Key_Left, Qt::AltModifier);
  EXPECT_EQ(jobs().size(), 1u);
  ASSERT_TRUE(settled(window));
  QTest::keyClick(&window, Qt::Key_Escape);
  EXPECT_TRUE(window.desk().at().jobs.empty());
  EXPECT_EQ(jobs().size(), 4u);
}

TEST_F(Choosing, ArrowsGoFromJobToJob) {
  go_to("pareto");
  QTest::keyClick(window.current(), Qt::Key_Right);
  ASSERT_EQ(window.desk().at().jobs.size(), 1u);
  ASSERT_TRUE(settled(window));
  std::set<std::string> seen{window.desk().at().jobs[0]};
  for (const Qt::Key key : {Qt::Key_Left, Qt::Key_Right, Qt::Key_Down, Qt::Key_Left, Qt::Key_Right}) {
    QTest::keyClick(window.current(), key);
    ASSERT_TRUE(settled(window));
    seen.insert(window.desk().at().jobs[0]);
  }
  EXPECT_EQ(seen.size(), 4u);
}

TEST_F(Choosing, ChosenJobsOfAResultsFileAreReplayedHere) {
  auto rows = *window.desk().input().rows;
  for (traces::ResultRow& row : rows) row.preset = row.policy = "keydiff", row.hash = "other", row.stored_frac *= 0.5;
  window.desk().open_results("made.jsonl", std::make_shared<const std::vector<traces::ResultRow>>(rows));
  go_to("pareto");
  QTest::mouseClick(window.current(), Qt::LeftButton, {}, place_of("keydiff, 10 % kept"));
  EXPECT_EQ(jobs().size(), 4u);  // none of ours: all stay
  QTest::keyClick(window.current(), Qt::Key_Return);
  ASSERT_TRUE(wait_for([&] { return jobs().size() == 1 && window.runner().idle(); }));
  EXPECT_EQ(jobs()[0].asked.policy, "keydiff");
}

TEST_F(Choosing, TheAxesChange) {
  go_to("pareto");
  QTest::keyClick(window.current(), Qt::Key_X);
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(window.current()->scene()->title().contains("kept tokens"));
  const auto figures = figures_of(*window.desk().input().rows);
  ASSERT_TRUE(std::find(figures.begin(), figures.end(), "recall.answer") != figures.end());
  QTimer::singleShot(200, [&] {
    auto* dialog = qobject_cast<QInputDialog*>(QApplication::activeModalWidget());
    ASSERT_TRUE(dialog);
    dialog->setTextValue("recall.answer");
    dialog->accept();
  });
  QTest::keyClick(window.current(), Qt::Key_M);
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(window.current()->scene()->title().contains("recall.answer"));
  EXPECT_TRUE(window.render_command().contains("--x kept_frac --y 'recall.answer'"));
}

TEST_F(Choosing, TheBrushSelectsAndZoomFollowsWhenAsked) {
  go_to("kept");
  SceneWidget* view = window.current();
  const QPoint from(view->width() / 3, view->height() / 2), to(view->width() / 2, view->height() / 2 + 5);
  QTest::mousePress(view, Qt::LeftButton, Qt::ControlModifier, from);
  QTest::mouseMove(view, to);
  QTest::mouseRelease(view, Qt::LeftButton, Qt::ControlModifier, to);
  const Range keys = window.desk().at().key;
  ASSERT_FALSE(keys.empty());
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(view->window().isEmpty());
  EXPECT_FALSE(window.render_command().contains("--key"));
  go_to("attention");
  const QString whole = window.current()->scene()->subtitle();
  QTest::keyClick(window.current(), Qt::Key_F, Qt::ShiftModifier);
  ASSERT_TRUE(settled(window));
  EXPECT_NE(window.current()->scene()->subtitle(), whole);
  EXPECT_TRUE(window.current()->scene()->subtitle().contains(QString("keys %1:%2").arg(keys.begin).arg(keys.end)));
}

TEST_F(Choosing, TheNeedleIsZoomedByQueries) {
  go_to("needle");
  QTest::keyClick(window.current(), Qt::Key_Plus);
  ASSERT_TRUE(settled(window));
  EXPECT_FALSE(window.current()->window().isEmpty());
  EXPECT_TRUE(window.render_command().contains("--query"));
  EXPECT_FALSE(window.render_command().contains("--key"));
}

TEST_F(Choosing, CardsOpenTheirViewsAndTheDashboardIsJson) {
  go_to("dashboard");
  const std::string text = window.current()->scene()->json();
  const json::value page = parse_json(text, "dashboard");
  EXPECT_EQ(page.at("schema").as_string(), "kvgrind.dashboard.1");
  EXPECT_EQ(page.at("cards").at("Model").at("layers").as_string(), "6");
  QTest::mouseClick(window.current(), Qt::LeftButton, {}, place_of("a click opens the view Head grid"));
  EXPECT_STREQ(window.current()->row().name, "heads");
  ASSERT_TRUE(settled(window));
  QTest::mouseDClick(window.current(), Qt::LeftButton, {}, place_of("layer 2, q1"));
  EXPECT_STREQ(window.current()->row().name, "attention");
  ASSERT_TRUE(settled(window));
  QTemporaryDir folder;
  EXPECT_THROW(write_picture(folder.filePath("a.json"), *window.current()->scene(), window.current()->look(),
                             {.size = {300, 200}, .notes = {}}),
               Error);
}

TEST_F(Choosing, TheTextIsShadedByAttentionWhenAsked) {
  go_to("text");
  EXPECT_TRUE(window.current()->scene()->subtitle().contains("4 policies"));
  QTest::keyClick(window.current(), Qt::Key_B);
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(window.current()->scene()->subtitle().contains("attention each token received"));
}

}  // namespace
}  // namespace kvgrind::gui
