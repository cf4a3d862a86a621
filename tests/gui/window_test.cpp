// The window driven by synthetic keys and clicks through its main paths, on whatever platform the test runs.
#include <gtest/gtest.h>

#include <QApplication>
#include <QClipboard>
#include <QComboBox>
#include <QDialog>
#include <QDockWidget>
#include <QFile>
#include <QImage>
#include <QLineEdit>
#include <QListWidget>
#include <QPushButton>
#include <QTabWidget>
#include <QTemporaryDir>
#include <QTimer>
#include <QtTest/QTest>
#include <set>

#include "gui/window/example.h"
#include "gui/window/main_window.h"
#include "tests/gui/window_support.h"

namespace kvgrind::gui {
namespace {

using tests::resident_bytes;
using tests::settled;
using tests::wait_for;

class Window : public testing::Test {
 protected:
  Window() : window(true) {
    window.show();
    (void)QTest::qWaitForWindowExposed(&window);
    window.activateWindow();  // no window manager does it for us
    (void)QTest::qWaitForWindowActive(&window);
  }
  void open_example() {
    auto* button = window.findChild<QPushButton*>("example");
    ASSERT_TRUE(button);
    QTest::mouseClick(button, Qt::LeftButton);
    ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
    ASSERT_TRUE(settled(window));
  }
  void add_policy(const QString& policy, const QString& budget) {
    auto* line = window.findChild<QLineEdit*>("policy");
    auto* kept = window.findChild<QLineEdit*>("budget");
    line->setFocus();
    line->selectAll();
    QTest::keyClicks(line, policy);
    kept->setFocus();
    kept->selectAll();
    QTest::keyClicks(kept, budget);
    QTest::keyClick(kept, Qt::Key_Return);
  }
  void go_to(const char* name) {
    window.go_to_view(tests::view_index(window, name));
    ASSERT_STREQ(window.current()->row().name, name);
    ASSERT_TRUE(settled(window)) << name;
  }
  MainWindow window;
};

TEST_F(Window, OpensTheExampleAndWalksEveryViewByKeys) {
  open_example();
  for (int i = 0; i < window.tabs().count(); ++i) {
    if (i > 0) QTest::keyClick(&window, Qt::Key_Tab, Qt::ControlModifier);
    EXPECT_EQ(window.tabs().currentIndex(), i);
    ASSERT_TRUE(settled(window)) << i;
    SceneWidget* view = window.current();
    EXPECT_TRUE(view->hasFocus());
    EXPECT_FALSE(view->accessibleName().isEmpty());
    for (const Qt::Key key : {Qt::Key_Right, Qt::Key_Down, Qt::Key_Left, Qt::Key_Up}) QTest::keyClick(view, key);
    ASSERT_TRUE(settled(window)) << i;
    EXPECT_FALSE(view->grab().isNull());
  }
  QTest::keyClick(&window, Qt::Key_3, Qt::ControlModifier);
  EXPECT_EQ(window.tabs().currentIndex(), 2);
}

TEST_F(Window, KeysMoveTheSelectionAndItsHistory) {
  open_example();
  go_to("attention");
  const Selection before = window.desk().at();
  QTest::keyClick(window.current(), Qt::Key_PageDown);
  QTest::keyClick(window.current(), Qt::Key_BracketRight);
  EXPECT_EQ(window.desk().at().layer, before.layer + 1);
  EXPECT_EQ(window.desk().at().query_head, before.query_head + 1);
  QTest::keyClick(window.current(), Qt::Key_End);
  EXPECT_EQ(window.desk().at().key_at, window.desk().limits().tokens - 1);
  QTest::keyClick(window.current(), Qt::Key_Left, Qt::AltModifier);
  QTest::keyClick(window.current(), Qt::Key_Left, Qt::AltModifier);
  EXPECT_EQ(window.desk().at().layer, before.layer + 1);
  EXPECT_EQ(window.desk().at().query_head, before.query_head);
  QTest::keyClick(window.current(), Qt::Key_Plus);
  EXPECT_FALSE(window.current()->window().isEmpty());
  QTest::keyClick(window.current(), Qt::Key_0);
  EXPECT_TRUE(window.current()->window().isEmpty());
  const MapOptions map = window.desk().input().map;
  QTest::keyClick(window.current(), Qt::Key_P);
  QTest::keyClick(window.current(), Qt::Key_L);
  EXPECT_NE(window.desk().input().map.pool, map.pool);
  EXPECT_NE(window.desk().input().map.log, map.log);
  EXPECT_TRUE(settled(window));
}

TEST_F(Window, PoliciesTypedJoinTheViewsAndAreCompared) {
  open_example();
  auto* add = window.findChild<QPushButton*>("add_policy");
  auto* line = window.findChild<QLineEdit*>("policy");
  line->setFocus();
  QTest::keyClicks(line, "snapkvv");
  EXPECT_FALSE(add->isEnabled());
  add_policy("snapkv", "0.2");
  add_policy("knorm", "64t");
  ASSERT_EQ(window.desk().policies().size(), 2u);
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 2 && window.runner().idle(); }));
  EXPECT_EQ(window.desk().input().rows->size(), 4u);  // two sequences each
  for (const char* name : {"kept", "diff", "memory", "pareto", "budget", "needle", "dashboard"}) {
    go_to(name);
    EXPECT_FALSE(window.current()->scene()->csv().empty()) << name;
  }
  // A click in the raster goes to that layer, head and key in all views.
  go_to("kept");
  SceneWidget* view = window.current();
  QTest::mouseClick(view, Qt::LeftButton, {}, QPoint(view->width() / 2, view->height() / 3));
  EXPECT_GE(window.desk().at().key_at, 0);
  // Another sequence: the policies run there as well.
  auto* sequences = window.findChild<QComboBox*>("sequence");
  sequences->setCurrentIndex(1);
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 2 && window.runner().idle(); }));
  EXPECT_EQ(window.desk().input().jobs[0].asked.sequence, window.desk().at().sequence);
}

TEST_F(Window, ExportsWhatItShows) {
  open_example();
  add_policy("snapkv", "0.2");
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 1 && window.runner().idle(); }));
  go_to("kept");
  QTemporaryDir folder;
  for (const char* ending : {"png", "svg", "pdf", "csv", "npy"}) {
    const QString path = folder.filePath(QString("kept.") + ending);
    window.export_view(path);
    EXPECT_TRUE(wait_for([&] { return QFile::exists(path) && QFile(path).size() > 200; })) << ending;
  }
  const QImage image(folder.filePath("kept.png"));
  EXPECT_EQ(image.size(), window.current()->size());
  EXPECT_TRUE(image.text("Command").contains("--view kept"));
  QTest::keyClick(&window, Qt::Key_E, Qt::ControlModifier | Qt::ShiftModifier);
  EXPECT_TRUE(QApplication::clipboard()->text().startsWith("kvgrind render"));
}

TEST_F(Window, ThePaletteFindsAndRunsAnAction) {
  open_example();
  QTimer::singleShot(300, [&] {
    QWidget* dialog = QApplication::activeModalWidget();
    ASSERT_TRUE(dialog);
    auto* words = dialog->findChild<QLineEdit*>();
    QTest::keyClicks(words, "needle");
    QTest::keyClick(words, Qt::Key_Return);
  });
  QTest::keyClick(&window, Qt::Key_K, Qt::ControlModifier);
  EXPECT_STREQ(window.current()->row().name, "needle");
}

TEST_F(Window, BadFilesGetTheFivePartMessage) {
  QTemporaryDir folder;
  QFile example(example_trace());
  ASSERT_TRUE(example.open(QIODevice::ReadOnly));
  const QByteArray good = example.readAll();
  QByteArray damaged = good;
  for (qsizetype i = 4000; i < damaged.size(); i += 3001) damaged[i] = char(damaged[i] ^ 0x5a);
  const std::map<QString, QByteArray> files = {{"empty.kvt", ""},
                                               {"text.kvt", "not a trace\n"},
                                               {"picture.kvt", "\x89PNG\r\n\x1a\n0000"},
                                               {"cut.kvt", good.left(good.size() / 3)},
                                               {"damaged.kvt", damaged},
                                               {"bad.kvsession", "{\"schema\": 3"},
                                               {"rows.jsonl", "{\"type\":\"result\"}\n"}};
  for (const auto& [name, bytes] : files) {
    QFile file(folder.filePath(name));
    ASSERT_TRUE(file.open(QIODevice::WriteOnly));
    file.write(bytes);
    file.close();
    window.open_file(folder.filePath(name));
    ASSERT_TRUE(wait_for([&] {
      return window.page() == MainWindow::error || (window.page() == MainWindow::workspace && window.runner().idle());
    })) << name.toStdString();
    if (window.page() == MainWindow::workspace) continue;  // what of it is whole may be shown
    for (const char* part : {"Why: ", "Still usable: ", "Next: "})
      EXPECT_TRUE(window.error_text().contains(part)) << name.toStdString();
  }
  window.open_file(folder.filePath("nowhere.kvt"));
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::error; }));
  EXPECT_TRUE(window.error_text().contains("nowhere.kvt"));
  window.open_file(folder.path());
  ASSERT_TRUE(
      wait_for([&] { return window.page() == MainWindow::error && window.error_text().contains(folder.path()); }));
}

TEST_F(Window, EveryWidgetThatTakesTheFocusHasAName) {
  open_example();
  for (const QWidget* widget : window.findChildren<QWidget*>()) {
    if (widget->focusPolicy() == Qt::NoFocus || !widget->isVisible()) continue;
    const QByteArray kind = widget->metaObject()->className();
    if (kind.startsWith("QTabBar") || kind.startsWith("QMenu") || widget->objectName() == "qt_spinbox_lineedit")
      continue;  // speak for themselves
    const auto* button = qobject_cast<const QAbstractButton*>(widget);
    const bool named = !widget->accessibleName().isEmpty() || (button && !button->text().isEmpty()) ||
                       kind.startsWith("QDockWidget") || kind == "QToolButton" || kind == "QTableCornerButton";
    EXPECT_TRUE(named) << kind.toStdString() << " " << widget->objectName().toStdString();
  }
}

TEST_F(Window, EveryViewPaintsDarkAndLight) {
  open_example();
  add_policy("snapkv", "0.2");
  add_policy("knorm", "0.2");
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 2 && window.runner().idle(); }));
  for (const char* theme : {"Theme: dark", "Theme: light"}) {
    for (QAction* action : window.all_actions())
      if (action->text() == theme) action->trigger();
    for (int i = 0; i < window.tabs().count(); ++i) {
      window.go_to_view(i);
      ASSERT_TRUE(settled(window));
      const QImage image = window.current()->grab().toImage();
      const bool dark = qGray(image.pixel(image.width() - 4, image.height() / 2)) < 128;
      EXPECT_EQ(dark, std::string(theme) == "Theme: dark") << window.current()->row().name;
      std::set<QRgb> colours;
      for (int y = 0; y < image.height(); y += 5)
        for (int x = 0; x < image.width(); x += 5) colours.insert(image.pixel(x, y));
      EXPECT_GT(colours.size(), 8u) << window.current()->row().name << " " << theme;
    }
  }
}

TEST_F(Window, KeysAloneOpenTheExampleAndAddAPolicy) {
  // Start page: Tab to the example, Return opens it.
  auto* example = window.findChild<QPushButton*>("example");
  for (int i = 0; i < 8 && QApplication::focusWidget() != example; ++i)
    QTest::keyClick(QApplication::focusWidget() ? QApplication::focusWidget() : &window, Qt::Key_Tab);
  ASSERT_EQ(QApplication::focusWidget(), example);
  QTest::keyClick(example, Qt::Key_Space);
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  ASSERT_TRUE(settled(window));
  // A policy: Ctrl+P, name, Tab, budget, Return.
  QTest::keyClick(&window, Qt::Key_P, Qt::ControlModifier);
  QTest::keyClicks(QApplication::focusWidget(), "snapkv");
  if (QWidget* popup = QApplication::activePopupWidget()) popup->close();
  auto* kept = window.findChild<QLineEdit*>("budget");
  QTest::keyClick(window.findChild<QLineEdit*>("policy"), Qt::Key_Tab);
  ASSERT_EQ(QApplication::focusWidget(), kept);
  QTest::keyClick(kept, Qt::Key_Return);
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 1 && window.runner().idle(); }));
}

TEST_F(Window, HeadsAreSortedAndStepsGoDown) {
  open_example();
  add_policy("snapkv", "0.1");
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 1 && window.runner().idle(); }));
  go_to("heads");
  const std::string plain = window.current()->scene()->csv();
  std::set<std::string> orders{plain};
  for (int i = 1; i < head_orders; ++i) {
    QTest::keyClick(window.current(), Qt::Key_S);
    ASSERT_TRUE(settled(window));
    orders.insert(window.current()->scene()->csv());
  }
  EXPECT_EQ(orders.size(), std::size_t(head_orders));
  EXPECT_TRUE(window.current()->scene()->subtitle().contains("snapkv"));
  const Selection before = window.desk().at();
  QTest::keyClick(window.current(), Qt::Key_Down);  // along the order there is
  EXPECT_NE(window.desk().at(), before);
  QTest::keyClick(window.current(), Qt::Key_S);
  go_to("kept");
  QTest::keyClick(window.current(), Qt::Key_Y);
  ASSERT_TRUE(settled(window));
  EXPECT_TRUE(window.current()->scene()->title().contains("step by step"));
  QTest::keyClick(window.current(), Qt::Key_Comma);
  EXPECT_GE(window.desk().at().step, 0);
  EXPECT_TRUE(window.render_command().contains("--lines steps"));
}

TEST_F(Window, LayoutsOfOnesOwnComeBack) {
  open_example();
  auto* inspector = window.findChild<QDockWidget*>("Inspector");
  inspector->hide();
  window.save_layout("Quiet");
  inspector->show();
  bool found = false;
  for (QAction* action : window.all_actions())
    if (action->text() == "Layout: Quiet") {
      action->trigger();
      found = true;
    }
  EXPECT_TRUE(found);
  EXPECT_FALSE(inspector->isVisible());
  window.save_layout("Explore");  // one that comes with the program stays what it is
  EXPECT_EQ(std::count_if(window.all_actions().begin(), window.all_actions().end(),
                          [](QAction* action) { return action->text() == "Layout: Explore"; }),
            1);
}

TEST_F(Window, TwoHundredOpenAndCloseDoNotGrow) {
  std::int64_t after_warming = 0;
  for (int i = 0; i < 200; ++i) {
    window.open_example();
    ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace && window.runner().idle(); })) << i;
    QTest::keyClick(&window, Qt::Key_W, Qt::ControlModifier);
    ASSERT_EQ(window.page(), MainWindow::start);
    if (i == 60) after_warming = resident_bytes();
  }
  EXPECT_LT(resident_bytes() - after_warming, 24ll << 20);
}

}  // namespace
}  // namespace kvgrind::gui
