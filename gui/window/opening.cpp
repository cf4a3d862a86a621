// Files that the window opens and saves: traces, results, sessions, and what everything is held against. Read on
// workers; what came too late for what is open now is dropped.
#include <QFile>
#include <QFileInfo>
#include <QJsonDocument>
#include <QSaveFile>
#include <QStackedWidget>
#include <QTabWidget>
#include <algorithm>

#include "gui/window/main_window.h"
#include "gui/window/pages.h"

namespace kvgrind::gui {

void MainWindow::open_trace(const QString& path, const QJsonObject& session) {
  desk_->close();
  const unsigned number = ++opening_number_;
  loading_->begin("Opening " + path);
  show_page(loading);
  opening_ = runner_->run(
      "opening " + QFileInfo(path).fileName(), 20,
      [this, path, session, number](const CancelToken&, Progress&) {
        auto opened = replay::Session::open(path.toStdString());
        return JobRunner::Finish([this, opened, path, session, number] {
          if (number != opening_number_) return;
          pages_->setCurrentIndex(workspace);
          desk_->open(opened, path);
          set_layout("Explore");
          show_workspace(path);
          if (const traces::Trace* trace = opened->trace(); trace && trace->state() != traces::TraceState::complete)
            say(QString("%1 was not closed properly. %2 of about %3 tokens are intact and loaded. "
                        "`kvgrind repair` makes a clean copy.")
                    .arg(QFileInfo(path).fileName())
                    .arg(trace->rows())
                    .arg(trace->announced_rows()));
          if (!session.isEmpty()) {
            desk_->restore(session);
            tabs_->setCurrentIndex(std::clamp(session["tab"].toInt(), 0, tabs_->count() - 1));
            if (const QString results = session["results"].toString(); !results.isEmpty()) open_results(results);
            if (const QString base = session["base"].toString(); !base.isEmpty()) open_base(base);
          }
          if (current()) current()->setFocus();
        });
      },
      [this, number](const FaultText& fault) {
        if (number == opening_number_) show_error(fault);
      });
}

void MainWindow::open_results(const QString& path) {
  if (!desk_->input().session) {
    loading_->begin("Opening " + path);
    show_page(loading);
  }
  const unsigned number = opening_number_;
  opening_ = runner_->run(
      "reading " + QFileInfo(path).fileName(), 20,
      [this, path, number](const CancelToken&, Progress&) {
        auto rows =
            std::make_shared<const std::vector<traces::ResultRow>>(replay::read_result_rows(path.toStdString()));
        if (rows->empty())
          throw Error(Category::missing, {.doing = "opening results",
                                          .on = path.toStdString(),
                                          .found = "no result in it yet",
                                          .expected = "a line a finished job",
                                          .next = "open it again when the first job is done"});
        return JobRunner::Finish([this, rows, path, number] {
          if (number != opening_number_) return;  // something else was opened, or it was cancelled
          if (!desk_->input().session) {          // on their own: the views of results
            pages_->setCurrentIndex(workspace);
            desk_->open_results_alone(path, rows);
            set_layout("Results");
            show_workspace(path);
            return;
          }
          desk_->open_results(path, rows);
          say(QString("%1 results of %2 joined the views").arg(rows->size()).arg(path));
        });
      },
      [this, number](const FaultText& fault) {
        if (number != opening_number_) return;
        if (desk_->input().session)
          say(QString::fromStdString(fault.headline + " " + fault.parts[0].second + " " + fault.parts[2].second));
        else
          show_error(fault);
      });
}

void MainWindow::show_workspace(const QString& path) {
  setWindowTitle(QFileInfo(path).fileName() + " – kvgrind");
  remember(path);
  say("Opened " + path);
  if (current()) current()->setFocus();
}

void MainWindow::open_base(const QString& path) {
  const bool results = path.endsWith(".jsonl");
  const auto say_fault = [this](const FaultText& fault) {
    say(QString::fromStdString(fault.headline + " " + fault.parts[0].second + " " + fault.parts[2].second));
  };
  if (!results && !desk_->input().session)
    return say(path + " cannot be held against results: open a trace first, or give results.");
  runner_->run(
      "opening " + QFileInfo(path).fileName() + " to compare", 20,
      [this, path, results](const CancelToken&, Progress&) {
        std::shared_ptr<const replay::Session> session;
        std::shared_ptr<const std::vector<traces::ResultRow>> rows;
        if (results)
          rows = std::make_shared<const std::vector<traces::ResultRow>>(replay::read_result_rows(path.toStdString()));
        else
          session = replay::Session::open(path.toStdString());
        return JobRunner::Finish([this, path, session, rows] {
          if (!desk_->is_open()) return;
          if (session)
            desk_->set_base(session, path);
          else
            desk_->set_base(rows, path);
          go_to_view("diff");
          say("Everything is held against " + path);
        });
      },
      say_fault);
}

void MainWindow::open_session(const QString& path) {
  const unsigned number = ++opening_number_;
  loading_->begin("Opening " + path);
  show_page(loading);
  opening_ = runner_->run(
      "opening " + QFileInfo(path).fileName(), 20,
      [this, path, number](const CancelToken&, Progress&) {
        QFile file(path);
        QJsonParseError parsed;
        const bool plain = QFileInfo(path).isFile();  // reading a pipe would wait for ever
        const QJsonObject object = plain && file.open(QIODevice::ReadOnly)
                                       ? QJsonDocument::fromJson(file.read(1 << 20), &parsed).object()
                                       : QJsonObject();
        if (object["schema"].toString() != "kvgrind.session.1" || object["trace"].toString().isEmpty())
          throw Error(Category::damaged, {.doing = "opening the session",
                                          .on = path.toStdString(),
                                          .found = "something else, or a damaged file",
                                          .expected = "a session that kvgrind saved",
                                          .next = "open the trace itself"});
        return JobRunner::Finish([this, object, number] {
          if (number == opening_number_) open_trace(object["trace"].toString(), object);
        });
      },
      [this, number](const FaultText& fault) {
        if (number == opening_number_) show_error(fault);
      });
}

void MainWindow::save_session(const QString& path) {
  QJsonObject object = desk_->session_json();
  object["tab"] = tabs_->currentIndex();
  QSaveFile file(path);
  if (file.open(QIODevice::WriteOnly) && file.write(QJsonDocument(object).toJson()) > 0 && file.commit())
    say("Saved " + path);
  else
    say("Saving " + path + " failed: " + file.errorString());
}

}  // namespace kvgrind::gui
