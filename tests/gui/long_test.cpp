// 200,000 tokens in the window: every view shows something, the event loop never stands still for long, memory stays
// bounded, and what is shown equals the closed form of the recording.
#include <gtest/gtest.h>

#include <QTemporaryDir>
#include <cstdio>

#include "gui/models/diff.h"
#include "gui/models/needle.h"
#include "gui/views/scene.h"
#include "tests/gui/long_trace.h"
#include "tests/gui/window_support.h"

namespace kvgrind::gui {
namespace {

using tests::wait_for;

constexpr std::int64_t longest_silence_ms = 1500;        // a freeze, even on a machine busy with other work
constexpr std::int64_t most_growth_bytes = 812ll << 20;  // cache of tiles and 300 MiB

class Long : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder = new QTemporaryDir;
    tests::LongTrace().record(path());
  }
  static void TearDownTestSuite() { delete folder; }
  static std::string path() { return folder->filePath("long.kvt").toStdString(); }
  static QTemporaryDir* folder;
};
QTemporaryDir* Long::folder = nullptr;

TEST_F(Long, TilesEqualTheClosedForm) {
  const tests::LongTrace made;
  const auto session = replay::Session::open(path());
  TilePyramid pyramid(session);
  const std::int64_t last = (made.tokens - 1) / tile_side;
  const auto sinks = pyramid.load({.row = last, .column = 0}, {});
  const std::int64_t needle = made.needle_begin(20), column = needle / tile_side;
  const auto far = pyramid.load({.row = last, .column = column}, {});
  for (std::int64_t q = made.tokens - 40; q < made.tokens; q += 7) {
    const std::int64_t r = q % tile_side;
    for (const std::int64_t k : {0ll, 3ll, 4ll, 200ll})
      EXPECT_NEAR(sinks->tile.value(r, k), made.weight(q, k), 1e-5 * made.weight(q, k) + 1e-9);
    EXPECT_NEAR(far->tile.value(r, needle % tile_side), made.weight(q, needle), 1e-5);
  }
  // Far out: every n-th query, and it says so; columns that all queries look at are there.
  const int top = TilePyramid::top_level(made.tokens);
  const auto coarse = pyramid.load({.level = top}, {});
  EXPECT_EQ(coarse->tile.source, replay::TileSource::sampled);
  EXPECT_NE(coarse->tile.origin.find("sampled"), std::string::npos) << coarse->tile.origin;
  EXPECT_GT(coarse->tile.value(100, 0), 0.5f * float(made.weight(101ll << top, 0)));
  // A needle of eight columns is still seen where a cell covers a thousand tokens.
  const replay::Tile wide = session->attention_tile(
      {.query_begin = made.tokens - 64, .query_end = made.tokens, .key_end = made.tokens, .cell = 1024});
  EXPECT_NEAR(wide.value(0, needle / 1024), made.weight(made.tokens - 64, needle), 1e-5);
}

TEST_F(Long, EveryViewWithoutAFreeze) {
  MainWindow window(true);
  window.show();
  (void)QTest::qWaitForWindowExposed(&window);
  const std::int64_t before = tests::resident_bytes();
  tests::Heartbeat heart;
  window.open_file(QString::fromStdString(path()));
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace; }));
  ASSERT_TRUE(tests::settled(window));
  window.desk().add_policy("streamingllm", "0.1");
  window.desk().add_policy("knorm", "0.1");
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 2 && window.runner().idle(); }));
  for (const char* theme : {"light", "dark"})
    for (int i = 0; i < window.tabs().count(); ++i) {
      if (std::string(theme) == "dark")
        for (QAction* action : window.all_actions())
          if (action->text() == "Theme: dark" && i == 0) action->trigger();
      heart.reset();
      window.go_to_view(i);
      ASSERT_TRUE(tests::settled(window)) << window.view(i).row().name;
      for (const Qt::Key key : {Qt::Key_Right, Qt::Key_Down, Qt::Key_End, Qt::Key_Home})
        QTest::keyClick(window.current(), key);
      ASSERT_TRUE(tests::settled(window)) << window.view(i).row().name;
      for (const Qt::Key key : {Qt::Key_Plus, Qt::Key_Plus, Qt::Key_0}) {
        QTest::keyClick(window.current(), key);
        ASSERT_TRUE(tests::settled(window)) << window.view(i).row().name;
      }
      const std::int64_t silence = heart.longest_ms();
      std::printf("%-10s %-5s longest silence %4lld ms\n", window.view(i).row().name, theme,
                  static_cast<long long>(silence));
      EXPECT_LT(silence, longest_silence_ms) << window.view(i).row().name;
      EXPECT_FALSE(window.current()->scene()->alt_text().isEmpty());
    }
  const std::int64_t growth = tests::resident_bytes() - before;
  std::printf("memory grew by %lld MiB\n", static_cast<long long>(growth >> 20));
  EXPECT_LT(growth, most_growth_bytes);
}

TEST_F(Long, MassesAreSaidToBeEstimated) {
  MainWindow window(true);
  window.open_file(QString::fromStdString(path()));
  ASSERT_TRUE(wait_for([&] { return window.page() == MainWindow::workspace && window.runner().idle(); }));
  window.desk().add_policy("streamingllm", "0.1");
  window.desk().add_policy("knorm", "0.1");
  ASSERT_TRUE(wait_for([&] { return window.desk().input().jobs.size() == 2 && window.runner().idle(); }));
  const ViewInput input = window.desk().input();
  const PolicyDiff diff = policy_diff(input, 10, {});
  EXPECT_TRUE(diff.estimated);
  const ScenePtr scene = view_named("diff").load(input, {});
  EXPECT_TRUE(scene->subtitle().contains("estimated"));
  EXPECT_NE(scene->csv().find("received_mass_estimated"), std::string::npos);
  // Forty needles side by side; the tracker says which one it follows.
  const NeedleData needles = needle_data(input, 50, {});
  EXPECT_EQ(needles.all.size(), std::size_t(tests::LongTrace::needles));
  EXPECT_EQ(needles.all[3].kept.size(), 2u);
  EXPECT_TRUE(view_named("needle").load(input, {})->title().contains("of 40"));
}

}  // namespace
}  // namespace kvgrind::gui
