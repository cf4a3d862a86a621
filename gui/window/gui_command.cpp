#include "gui/window/gui_command.h"

#include <QApplication>
#include <cstdio>

#include "gui/window/main_window.h"

namespace kvgrind::gui {

int gui_command(const QStringList& words) {
  QStringList files;
  QString base;
  bool fresh = false;
  for (int i = 0; i < words.size(); ++i) {
    const QString& word = words[i];
    if (word == "--fresh") {
      fresh = true;
    } else if (word == "--diff") {
      if (i + 1 >= words.size()) {
        std::fputs("kvgrind gui: --diff: found nothing after it, expected a trace or results to compare with\n",
                   stderr);
        return exit_code(Category::usage);
      }
      base = words[++i];
    } else if (word == "--help" || word == "-h") {
      std::puts(
          "usage: kvgrind gui [--fresh] [--diff BASE] [FILE…]\n\n"
          "A trace, then results to open beside it; results alone; or a session.\n"
          "--diff BASE holds the file against another trace, or against other results.\n"
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
  if (!base.isEmpty())
    QObject::connect(
        &window.desk(), &Desk::opened, &window, [&window, base] { window.open_base(base); }, Qt::SingleShotConnection);
  if (!results.isEmpty())
    QObject::connect(
        &window.desk(), &Desk::opened, &window, [&window, results] { window.open_file(results); },
        Qt::SingleShotConnection);
  return QApplication::exec();
}

}  // namespace kvgrind::gui
