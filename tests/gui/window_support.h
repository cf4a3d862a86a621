// The window in tests: waiting until it is quiet, going to a view, memory and the longest silence of the event loop.
#pragma once
#include <QElapsedTimer>
#include <QTabWidget>
#include <QTimer>
#include <QtTest/QTest>
#include <algorithm>
#include <fstream>
#include <string>

#include "gui/window/main_window.h"

namespace kvgrind::tests {

constexpr int patience_ms = 30000;

template <class F>
bool wait_for(F&& done) {
  return QTest::qWaitFor(std::forward<F>(done), patience_ms);
}

// Loaded, painted, and with every tile that the picture wanted.
inline bool settled(gui::MainWindow& window) {
  const auto quiet = [&] {
    const gui::SceneWidget* view = window.current();
    return view && view->scene() && !view->busy() && window.runner().idle();
  };
  if (!wait_for(quiet)) return false;
  window.current()->repaint();
  return wait_for(quiet);
}

inline int view_index(gui::MainWindow& window, const std::string& name) {
  for (int i = 0; i < window.tabs().count(); ++i)
    if (name == window.view(i).row().name) return i;
  return -1;
}

inline std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

// The longest time between two turns of the event loop while it lives: what a person feels as a freeze.
class Heartbeat {
 public:
  Heartbeat() {
    clock_.start();
    QObject::connect(&timer_, &QTimer::timeout, &timer_, [this] { beat(); });
    timer_.start(2);
  }
  std::int64_t longest_ms() {
    beat();
    return longest_;
  }
  void reset() {
    clock_.restart();
    longest_ = 0;
  }

 private:
  void beat() {
    longest_ = std::max<std::int64_t>(longest_, clock_.elapsed());
    clock_.restart();
  }
  QTimer timer_;
  QElapsedTimer clock_;
  std::int64_t longest_ = 0;
};

}  // namespace kvgrind::tests
