// Scripts the window on one trace and prints what user-visible waits there are: first paint, pan and zoom with cached
// tiles, an exact tile, cancelling, memory.
//   kvgrind_gui_bench FILE.kvt
#include <QApplication>
#include <QElapsedTimer>
#include <QImage>
#include <QTest>
#include <QTimer>
#include <algorithm>
#include <cstdio>
#include <fstream>

#include "gui/window/main_window.h"

namespace {

using namespace kvgrind;
using namespace kvgrind::gui;

double ms(const QElapsedTimer& timer) { return static_cast<double>(timer.nsecsElapsed()) * 1e-6; }

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  double size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096 / 1048576;
}

void print(const char* what, std::vector<double> values, double target, const char* unit) {
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2], worst = values.back();
  std::printf("%-44s median %8.1f, worst %8.1f %s (target %.0f) %s\n", what, median, worst, unit, target,
              worst <= target    ? "holds"
              : median <= target ? "median holds"
                                 : "missed");
}

int index_of(MainWindow& window, const char* name) {
  for (int i = 0; i < window.tabs().count(); ++i)
    if (std::string(window.view(i).row().name) == name) return i;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fputs("usage: kvgrind_gui_bench FILE.kvt\n", stderr), 2;
  if (!qEnvironmentVariableIsSet("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication app(argc, argv);
  MainWindow window(true);
  window.show();

  QElapsedTimer timer;
  timer.start();
  window.open_file(argv[1]);
  (void)QTest::qWaitFor([&] { return window.page() == MainWindow::workspace && window.current()->scene(); }, 60000);
  window.current()->grab();
  print("first paint after open", {ms(timer)}, 1000, "ms");

  timer.restart();
  window.go_to_view(index_of(window, "attention"));
  SceneWidget& map = *window.current();
  (void)QTest::qWaitFor([&] { return map.scene() != nullptr; }, 60000);
  map.grab();
  std::printf("%-44s %8.1f ms\n", "attention map: first picture", ms(timer));
  (void)QTest::qWaitFor([&] { return !map.busy(); }, 120000);
  std::printf("%-44s %8.1f ms\n", "attention map: all tiles of the whole map", ms(timer));

  // An exact tile of a head that is in memory.
  const auto session = window.desk().input().session;
  const std::int64_t tokens = window.desk().limits().tokens;
  (void)session->attention_tile({.query_end = 256, .key_end = 256});
  std::vector<double> tiles;
  for (std::int64_t i = 0; i < 20; ++i) {
    const std::int64_t at = (tokens - 256) * i / 20;
    timer.restart();
    (void)session->attention_tile(
        {.query_begin = tokens - 256, .query_end = tokens, .key_begin = at, .key_end = at + 256});
    tiles.push_back(ms(timer));
  }
  print("exact 256 × 256 tile", tiles, 50, "ms");

  // Panning and zooming: every frame is a full repaint; what is missing is fetched meanwhile.
  std::vector<double> frames;
  for (int i = 0; i < 60; ++i) {
    map.zoom(i % 20 < 10 ? 1.2 : 1 / 1.2, QPointF(map.width() * (0.3 + 0.005 * i), map.height() * 0.6));
    if (i >= 20) {  // the levels have been seen once
      QImage image(map.size(), QImage::Format_RGB32);
      timer.restart();
      map.render(&image);
      frames.push_back(ms(timer));
    }
    (void)QTest::qWaitFor([&] { return !map.busy(); }, 20000);
  }
  print("pan and zoom frame", frames, 33, "ms");

  // Cancel while many heads are read.
  timer.restart();
  window.go_to_view(index_of(window, "heads"));
  QTest::qWait(150);
  timer.restart();
  window.runner().cancel_all();
  (void)QTest::qWaitFor([&] { return window.runner().idle(); }, 60000);
  print("cancel", {ms(timer)}, 200, "ms");
  print("resident memory", {resident_mib()}, 512 + 300, "MiB");
  return 0;
}
