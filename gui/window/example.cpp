#include "gui/window/example.h"

#include <QCoreApplication>
#include <QFileInfo>

namespace kvgrind::gui {

QString example_trace() {
  for (const QString& path : {QCoreApplication::applicationDirPath() + "/../share/kvgrind/examples/example.kvt",
                              QString(KVGRIND_SOURCE_DIR "/traces/examples/example.kvt")})
    if (QFileInfo::exists(path)) return QFileInfo(path).absoluteFilePath();
  return {};
}

}  // namespace kvgrind::gui
