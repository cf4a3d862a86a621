#include "gui/window/gui_command.h"

#include <QApplication>
#include <cstdio>

#include "gui/window/main_window.h"

namespace kvgrind::gui {

int gui_command(const QStringList& words) {
  QStringList files;
  bool fresh = false;
  for (const QString& word : words) {
    if (word == "--fresh") {
      fresh = true;
    } else if (word == "--help" || word == "-h") {
      std::puts(
          "usage: kvgrind gui [--fresh] [FILE…]\n\nA trace, then results to open beside it; or a session.\n"
          "--fresh ignores saved settings.");
      return 0;
    } else if (word.startsWith("-")) {
      std::fprintf(stderr, "kvgrind gui: unknown option %s\n", word.toUtf8().constData());
      return exit_code(Category::usage);
    } else {
      files << word;
    }
  }
  MainWindow window(fresh);
  window.show();
  QString results;
  for (const QString& file : files) {
    if (file.endsWith(".jsonl") && files.size() > 1)
      results = file;
    else
      window.open_file(file);
  }
  if (!results.isEmpty())
    QObject::connect(
        &window.desk(), &Desk::opened, &window, [&window, results] { window.open_file(results); },
        Qt::SingleShotConnection);
  return QApplication::exec();
}

}  // namespace kvgrind::gui
