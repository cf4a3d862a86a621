// kvgrind-gui COMMAND words…: started by `kvgrind gui` and `kvgrind render`.
#include <QApplication>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "gui/render/render_command.h"
#include "gui/window/gui_command.h"

namespace {

// Qt speaks of the session and the platform; a picture needs neither.
void only_faults(QtMsgType type, const QMessageLogContext&, const QString& text) {
  if (type == QtCriticalMsg || type == QtFatalMsg) std::fprintf(stderr, "kvgrind: %s\n", text.toUtf8().constData());
}

}  // namespace

int main(int argc, char** argv) {
  const bool render = argc > 1 && std::strcmp(argv[1], "render") == 0;
  const bool gui = argc > 1 && std::strcmp(argv[1], "gui") == 0;
  if (!render && !gui) {
    std::fputs("usage: kvgrind gui [FILE…], kvgrind render FILE --view NAME -o OUT\n", stderr);
    return kvgrind::exit_code(kvgrind::Category::usage);
  }
  const bool display = qEnvironmentVariableIsSet("DISPLAY") || qEnvironmentVariableIsSet("WAYLAND_DISPLAY") ||
                       qEnvironmentVariableIsSet("QT_QPA_PLATFORM");
  if (gui && !display) {
    std::fputs(
        "kvgrind: opening a window: found no display (neither DISPLAY nor WAYLAND_DISPLAY is set); "
        "`kvgrind render` draws every view without one\n",
        stderr);
    return kvgrind::exit_code(kvgrind::Category::unavailable);
  }
  if (render) qInstallMessageHandler(only_faults);
  if (render) qputenv("QT_QPA_PLATFORM", "offscreen");
  // One scale for equal pictures everywhere; a window follows its screen.
  if (render) qputenv("QT_SCALE_FACTOR", "1");
  QApplication app(argc, argv);
  QApplication::setApplicationName("kvgrind");
  QApplication::setOrganizationName("kvgrind");
  const QStringList words = QApplication::arguments().mid(2);
  return render ? kvgrind::gui::render_command(words) : kvgrind::gui::gui_command(words);
}
