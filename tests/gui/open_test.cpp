// Opening: by the keyboard alone, and whatever may lie at a path instead of a good file.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <QApplication>
#include <QClipboard>
#include <QFile>
#include <QListWidget>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QTemporaryDir>
#include <set>

#include "gui/window/pages.h"
#include "tests/gui/long_trace.h"
#include "tests/gui/window_support.h"

namespace kvgrind::gui {
namespace {

using tests::wait_for;

class Opening : public testing::Test {
 protected:
  Opening() : window(true) {
    window.show();
    (void)QTest::qWaitForWindowExposed(&window);
    window.activateWindow();
    (void)QTest::qWaitForWindowActive(&window);
  }
  QString write(const QString& name, const QByteArray& bytes) {
    const QString path = folder.filePath(name);
    QFile file(path);
    if (!file.open(QIODevice::WriteOnly) || file.write(bytes) != bytes.size()) ADD_FAILURE();
    return path;
  }
  // The error page with all five parts: what and on which file in the headline, why, still usable, next.
  void refused(const QString& path) {
    window.open_file(path);
    ASSERT_TRUE(wait_for([&] { return window.page() != MainWindow::loading; })) << path.toStdString();
    ASSERT_EQ(window.page(), MainWindow::error) << path.toStdString();
    const QString text = window.error_text();
    EXPECT_TRUE(text.contains(path)) << text.toStdString();
    for (const char* part : {"Why: ", "Still usable: ", "Next: "})
      EXPECT_TRUE(text.contains(part)) << text.toStdString();
    QTest::mouseClick(window.findChild<QPushButton*>("copy_details"), Qt::LeftButton);
    EXPECT_TRUE(QApplication::clipboard()->text().contains(path)) << path.toStdString();
  }
  void walk() {
    for (int i = 0; i < window.tabs().count(); ++i) {
      window.go_to_view(i);
      EXPECT_TRUE(tests::settled(window)) << window.view(i).row().name;
      for (const Qt::Key key : {Qt::Key_Right, Qt::Key_Down, Qt::Key_PageDown, Qt::Key_End, Qt::Key_Plus})
        QTest::keyClick(window.current(), key);
      EXPECT_FALSE(window.current()->scene()->alt_text().isEmpty());
    }
  }
  QTemporaryDir folder;
  MainWindow window;
};

TEST_F(Opening, WhateverLiesThereIsExplained) {
  for (const char* ending : {"kvt", "jsonl", "kvsession"}) {
    const auto name = [&](const char* stem) { return QString("%1.%2").arg(stem, ending); };
    refused(write(name("empty"), ""));
    refused(write(name("text"), "not what its name says\n"));
    refused(write(name("picture"), "\x89PNG\r\n\x1a\n0000"));
    ASSERT_EQ(::mkdir(folder.filePath(name("folder")).toUtf8().constData(), 0700), 0);
    refused(folder.filePath(name("folder")));
    ASSERT_EQ(::mkfifo(folder.filePath(name("pipe")).toUtf8().constData(), 0600), 0);
    refused(folder.filePath(name("pipe")));
    refused(folder.filePath(name("nowhere")));
  }
  QTest::keyClick(QApplication::focusWidget(), Qt::Key_Tab, Qt::ShiftModifier);
  for (int i = 0; i < 6 && QApplication::focusWidget()->objectName() != "back_to_start"; ++i)
    QTest::keyClick(QApplication::focusWidget(), Qt::Key_Tab);
  QTest::keyClick(QApplication::focusWidget(), Qt::Key_Return);
  EXPECT_EQ(window.page(), MainWindow::start);
}

TEST_F(Opening, HalfWrittenIsShownAsFarAsItGoes) {
  const tests::LongTrace made{.tokens = 20'000};
  made.record(folder.filePath("half.kvt").toStdString(), made.tokens / 2);
  const QString half = folder.filePath("half.kvt.part");
  window.open_file(half);
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; })) << window.error_text().toStdString();
  ASSERT_TRUE(tests::settled(window));
  const std::int64_t tokens = window.desk().limits().tokens;
  EXPECT_GT(tokens, 4000);
  EXPECT_LT(tokens, made.tokens);
  EXPECT_TRUE(window.findChild<QPlainTextEdit*>()->toPlainText().contains("was not closed properly"));
  walk();
  // Cut in the middle of a chunk: as far as it goes, or refused; never a crash.
  QFile file(half);
  ASSERT_TRUE(file.open(QIODevice::ReadOnly));
  const QByteArray bytes = file.readAll();
  ASSERT_FALSE(bytes.isEmpty());
  for (const int share : {95, 60, 20, 1}) {
    window.open_file(write("cut.kvt", bytes.left(bytes.size() * share / 100)));
    ASSERT_TRUE(wait_for([&] {
      return window.page() == MainWindow::error || (window.page() == MainWindow::workspace && window.runner().idle());
    })) << share;
    if (window.page() == MainWindow::workspace) walk();
  }
}

TEST_F(Opening, TheStartPageNeedsNoMouse) {
  auto* page = window.findChild<StartPage*>();
  page->set_recent({folder.filePath("one.kvt"), folder.filePath("two.kvt")});
  EXPECT_EQ(QApplication::focusWidget()->objectName(), "example");
  std::set<QWidget*> seen;
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(QApplication::focusWidget()) << i;
    seen.insert(QApplication::focusWidget());
    QTest::keyClick(QApplication::focusWidget(), Qt::Key_Tab);
  }
  auto* recent = page->findChild<QListWidget*>();
  for (QWidget* wanted : {static_cast<QWidget*>(page->findChild<QPushButton*>("open")), static_cast<QWidget*>(recent)})
    EXPECT_TRUE(seen.contains(wanted)) << wanted->accessibleName().toStdString();
  // A recent file by arrows and Return: it is gone, and that is said.
  recent->setFocus();
  QTest::keyClick(recent, Qt::Key_Home);
  QTest::keyClick(recent, Qt::Key_Down);
  QTest::keyClick(recent, Qt::Key_Return);
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::error; }));
  EXPECT_TRUE(window.error_text().contains("two.kvt"));
  QTest::keyClick(QApplication::focusWidget(), Qt::Key_Return);  // back to the start
  ASSERT_EQ(window.page(), MainWindow::start);
  EXPECT_EQ(QApplication::focusWidget()->objectName(), "example");
  QTest::keyClick(QApplication::focusWidget(), Qt::Key_Return);
  EXPECT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
}

}  // namespace
}  // namespace kvgrind::gui
