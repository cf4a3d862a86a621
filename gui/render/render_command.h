// `kvgrind render FILE --view NAME … -o OUT`: any view into a file, without a display.
#pragma once
#include <QStringList>

namespace kvgrind::gui {

// Prints to stdout and stderr; returns the exit code. Needs a QApplication.
int render_command(const QStringList& words);

}  // namespace kvgrind::gui
