#include "gui/window/main_window.h"

#include <QCloseEvent>
#include <QDockWidget>
#include <QDragEnterEvent>
#include <QFileInfo>
#include <QJsonDocument>
#include <QLabel>
#include <QMimeData>
#include <QPlainTextEdit>
#include <QPushButton>
#include <QSaveFile>
#include <QSettings>
#include <QStackedWidget>
#include <QStatusBar>
#include <QTabWidget>
#include <QTime>
#include <cmath>

#include "core/version.h"
#include "gui/models/pareto.h"
#include "gui/render/picture.h"
#include "gui/window/example.h"
#include "gui/window/pages.h"
#include "gui/window/panels.h"
#include "gui/window/policies_panel.h"

namespace kvgrind::gui {

MainWindow::MainWindow(bool fresh, QWidget* parent)
    : QMainWindow(parent),
      fresh_(fresh),
      runner_(new JobRunner(this)),
      desk_(new Desk(*runner_, this)),
      pages_(new QStackedWidget(this)),
      start_(new StartPage(this)),
      loading_(new LoadingPage(this)),
      error_(new ErrorPage(this)),
      tabs_(new QTabWidget(this)),
      own_palette_(palette()) {
  setWindowTitle("kvgrind");
  setAcceptDrops(true);
  resize(1320, 860);
  build_workspace();
  for (QWidget* page : {static_cast<QWidget*>(start_), static_cast<QWidget*>(loading_), static_cast<QWidget*>(error_),
                        static_cast<QWidget*>(tabs_)})
    pages_->addWidget(page);
  setCentralWidget(pages_);
  build_actions();
  connect(start_, &StartPage::example_asked, this, &MainWindow::open_example);
  connect(start_, &StartPage::open_asked, this, [this] { actions_.front()->trigger(); });
  connect(start_, &StartPage::file_asked, this, &MainWindow::open_file);
  connect(error_, &ErrorPage::left, this, [this] { close_file(); });
  connect(loading_, &LoadingPage::cancelled, this, [this] {
    opening_.cancel();
    ++opening_number_;
    close_file();
  });
  connect(desk_, &Desk::message, this, &MainWindow::say);
  if (!fresh_) {
    const QSettings settings;
    restoreGeometry(settings.value("geometry").toByteArray());
    restoreState(settings.value("docks").toByteArray());
    start_->set_recent(settings.value("recent").toStringList());
    QSettings own;
    own.beginGroup("layouts");
    for (const QString& name : own.childKeys()) {
      layouts_[name] = own.value(name).toByteArray();
      add_layout_action(name);
    }
    if (const QString theme = settings.value("theme").toString(); !theme.isEmpty()) set_theme(theme);
  }
  close_file();
}

MainWindow::~MainWindow() {
  runner_->cancel_all();
  delete runner_;  // waits for its workers: nothing of theirs outlives the views
}

int MainWindow::page() const { return pages_->currentIndex(); }
QString MainWindow::error_text() const { return error_->text(); }
SceneWidget* MainWindow::current() const {
  const int at = tabs_->currentIndex();
  return at >= 0 && pages_->currentIndex() == workspace ? views_[std::size_t(at)] : nullptr;
}

void MainWindow::build_workspace() {
  tabs_->setDocumentMode(true);
  tabs_->setAccessibleName("Views");
  for (const ViewRow* row : gui::views()) {
    auto* widget = new SceneWidget(*row, *desk_, *runner_, tabs_);
    views_.push_back(widget);
    tabs_->addTab(widget, row->title);
    connect(widget, &SceneWidget::pointed, this, [this](const QString& text) { pointed_->setText(text); });
    connect(widget, &SceneWidget::failed, this, [this](const FaultText& fault) {
      say(QString::fromStdString(fault.headline + " " + fault.parts[0].second));
    });
    connect(widget, &SceneWidget::asked, this, [this](const std::string& view) { go_to_view(view); });
    connect(widget, &SceneWidget::activated, this, [this, name = std::string(row->name)] {
      if (name == "heads") go_to_view("attention");
      if (name == "dashboard") go_to_view("pareto");
      if (name == "pareto") desk_->add_chosen();
    });
  }
  const auto dock = [&](const QString& title, QWidget* widget, Qt::DockWidgetArea area) {
    auto* out = new QDockWidget(title, this);
    out->setObjectName(title);
    out->setWidget(widget);
    widget->setAccessibleName(title);
    addDockWidget(area, out);
    docks_[title] = out;
    return out;
  };
  dock("Navigator", new Navigator(*desk_, this), Qt::LeftDockWidgetArea);
  policies_ = new PoliciesPanel(*desk_, this);
  dock("Policies", policies_, Qt::LeftDockWidgetArea);
  dock("Jobs", new JobsList(*desk_, *runner_, this), Qt::LeftDockWidgetArea);
  dock("Inspector", new Inspector(*desk_, *runner_, this), Qt::RightDockWidgetArea);
  dock("Token text", new SceneWidget(view_named("text"), *desk_, *runner_, this), Qt::RightDockWidgetArea);
  steps_ = new StepBar(*desk_, this);
  dock("Timeline", steps_, Qt::BottomDockWidgetArea);
  log_ = new QPlainTextEdit(this);
  log_->setReadOnly(true);
  log_->setMaximumBlockCount(1000);
  log_->setTabChangesFocus(true);
  QDockWidget* log = dock("Log", log_, Qt::BottomDockWidgetArea);
  tabifyDockWidget(docks_["Timeline"], log);
  docks_["Timeline"]->raise();
  pointed_ = new QLabel(this);
  pointed_->setAccessibleName("Under the pointer");
  statusBar()->addWidget(pointed_, 1);
}

void MainWindow::say(const QString& text) {
  log_->appendPlainText(QTime::currentTime().toString("HH:mm:ss  ") + text);
  statusBar()->showMessage(text, 8000);
}

// The keyboard goes along: to the button that is wanted most there.
void MainWindow::show_page(Page page) {
  pages_->setCurrentIndex(page);
  const char* wanted = page == start ? "example" : page == loading ? "cancel_loading" : "back_to_start";
  if (auto* button = pages_->currentWidget()->findChild<QPushButton*>(wanted)) button->setFocus();
}

void MainWindow::close_file() {
  ++opening_number_;
  desk_->close();
  show_page(start);
  for (auto& [name, dock] : docks_) dock->hide();
  setWindowTitle("kvgrind");
}

void MainWindow::show_error(const FaultText& fault) {
  error_->show_fault(fault);
  for (auto& [name, dock] : docks_) dock->hide();
  show_page(error);
  say(QString::fromStdString(fault.headline));
}

void MainWindow::remember(const QString& path) {
  if (fresh_) return;
  QSettings settings;
  QStringList recent = settings.value("recent").toStringList();
  recent.removeAll(path);
  recent.prepend(path);
  recent = recent.mid(0, 10);
  settings.setValue("recent", recent);
  start_->set_recent(recent);
}

void MainWindow::open_file(const QString& path) {
  const QString full = QFileInfo(path).absoluteFilePath();
  if (path.endsWith(".jsonl"))
    open_results(full);
  else if (path.endsWith(".kvsession"))
    open_session(full);
  else
    open_trace(full);
}

void MainWindow::open_example() {
  const QString path = example_trace();
  if (path.isEmpty())
    show_error(fault_text(Error(Category::missing, {.doing = "opening",
                                                    .on = "the built-in example",
                                                    .found = "no example.kvt beside the program or in the source tree",
                                                    .expected = "traces/examples/example.kvt",
                                                    .next = "open a trace of your own"})));
  else
    open_trace(path);
}

void MainWindow::build_index() {
  const replay::Session* session = desk_->input().session.get();
  if (!session || !session->trace()) return;
  const QString path = desk_->path();
  runner_->run(
      "indexing " + QFileInfo(path).fileName(), 0,
      [this, path](const CancelToken& cancel, Progress& progress) {
        replay::index_trace(path.toStdString(), true, &progress, cancel);
        return JobRunner::Finish([this] { say("The index is there; F5 opens the trace with it."); });
      },
      [this](const FaultText& fault) { say(QString::fromStdString(fault.headline + " " + fault.parts[0].second)); });
}

QString MainWindow::render_command() const {
  const SceneWidget* widget = current();
  if (!widget) return {};
  const Selection& s = desk_->at();
  const MapOptions& map = desk_->input().map;
  const bool trace = desk_->input().session != nullptr;
  QString out =
      QString("kvgrind render '%1' --view %2").arg(trace ? desk_->path() : desk_->results_path(), widget->row().name);
  if (trace) out += QString(" --seq %1 --layer %2 --head %3").arg(s.sequence).arg(s.layer).arg(s.query_head);
  const QRectF window = widget->window();
  Range key = s.key, query = s.query;
  if (!window.isEmpty() && widget->scene() && !widget->scene()->scrolls()) {
    key = {std::int64_t(window.left()), std::int64_t(std::ceil(window.right()))};
    if (!widget->scene()->keys_across()) std::swap(key, query);
    if (window.height() > 1) query = {std::int64_t(window.top()), std::int64_t(std::ceil(window.bottom()))};
  }
  if (window.isEmpty() && !map.follow) key = query = {};  // marked, not zoomed to
  if (!key.empty()) out += QString(" --key %1:%2").arg(key.begin).arg(key.end);
  if (!query.empty()) out += QString(" --query %1:%2").arg(query.begin).arg(query.end);
  if (s.query_at >= 0 || s.key_at >= 0) out += QString(" --at '%1'").arg(QString::fromStdString(place_text(s)));
  if (s.step >= 0) out += QString(" --step %1").arg(s.step);
  for (const ShownJob& job : desk_->input().jobs)
    out += QString(" --job '%1@%2'")
               .arg(QString::fromStdString(job.asked.policy), QString::fromStdString(job.asked.budget));
  if (!desk_->results_path().isEmpty() && !desk_->path().isEmpty())
    out += QString(" --results '%1'").arg(desk_->results_path());
  if (!desk_->base_path().isEmpty()) out += QString(" --diff '%1'").arg(desk_->base_path());
  const char* pools[] = {"max", "mean", "sum"};
  out += QString(" --pool %1 --scale %2 --colours %3")
             .arg(pools[int(map.pool)], map.log ? "log" : "linear", colour_map_name(map.colours));
  if (map.values) out += " --values";
  if (map.difference) out += " --difference";
  if (map.steps) out += " --lines steps";
  if (map.order != HeadOrder::layer) out += QString(" --sort %1").arg(head_order_name(map.order));
  if (map.received) out += " --received";
  if (desk_->input().results_x != pareto_costs[0]) out += " --x " + QString::fromStdString(desk_->input().results_x);
  if (!desk_->input().results_y.empty()) out += " --y '" + QString::fromStdString(desk_->input().results_y) + "'";
  for (const std::string& job : s.jobs) out += " --choose '" + QString::fromStdString(job) + "'";
  return out + QString(" --size %1x%2 -o %3.png").arg(widget->width()).arg(widget->height()).arg(widget->row().name);
}

void MainWindow::export_view(const QString& path) {
  const SceneWidget* widget = current();
  if (!widget || !widget->scene()) return;
  PictureOptions options{.size = widget->size(), .dpi = 96, .notes = {}};
  options.notes = {{"Software", "kvgrind"},
                   {"Version", QString::fromStdString(std::string(version()))},
                   {"Command", render_command()}};
  if (desk_->input().session) options.notes["Trace"] = QString::fromStdString(desk_->input().session->run().hash());
  options.state.window = widget->window();
  if (path.endsWith(".csv") || path.endsWith(".npy") ||
      path.endsWith(".html")) {  // may be large, and touches no painter: on a worker
    runner_->run(
        "exporting " + QFileInfo(path).fileName(), 6,
        [this, scene = widget->scene(), look = widget->look(), path, options](const CancelToken& cancel, Progress&) {
          write_picture(path, *scene, look, options, cancel);
          return JobRunner::Finish([this, path] { say("Exported " + path); });
        },
        [this](const FaultText& fault) { say(QString::fromStdString(fault.headline + " " + fault.parts[0].second)); });
    return;
  }
  try {
    write_picture(path, *widget->scene(), widget->look(), options);
    say("Exported " + path);
  } catch (const Error& fault) {
    const FaultText text = fault_text(fault);
    say(QString::fromStdString(text.headline + " " + text.parts[0].second + " " + text.parts[2].second));
  }
}

void MainWindow::go_to_view(int index) {
  if (index < 0 || index >= tabs_->count() || pages_->currentIndex() != workspace) return;
  tabs_->setCurrentIndex(index);
  views_[std::size_t(index)]->setFocus();
}

void MainWindow::go_to_view(const std::string& name) {
  for (std::size_t i = 0; i < views_.size(); ++i)
    if (name == views_[i]->row().name) go_to_view(int(i));
}

void MainWindow::set_layout(const QString& name) {
  if (const auto own = layouts_.find(name); own != layouts_.end()) {
    restoreState(own->second);
    return;
  }
  const QStringList shown = name == "Paper"     ? QStringList{}
                            : name == "Results" ? QStringList{"Log"}
                            : name == "Compare"
                                ? QStringList{"Policies", "Jobs", "Timeline", "Log"}
                                : QStringList{"Navigator", "Policies", "Inspector", "Token text", "Timeline", "Log"};
  for (auto& [title, dock] : docks_) dock->setVisible(shown.contains(title));
  docks_["Timeline"]->raise();
  resizeDocks({docks_["Policies"], docks_["Inspector"]}, {260, 380}, Qt::Horizontal);
  resizeDocks({docks_["Timeline"]}, {70}, Qt::Vertical);
  resizeDocks({docks_["Navigator"], docks_["Policies"]}, {170, 420}, Qt::Vertical);
}

void MainWindow::save_layout(const QString& name) {
  if (QStringList{"Explore", "Compare", "Paper", "Results"}.contains(name))
    return say(name + " is a layout that comes with the program; choose another name.");
  const bool fresh = !layouts_.contains(name);
  layouts_[name] = saveState();
  if (!fresh_) QSettings().setValue("layouts/" + name, layouts_[name]);
  if (fresh) add_layout_action(name);
  say("Layout " + name + " is kept; the View menu and Ctrl+K bring it back.");
}

void MainWindow::add_layout_action(const QString& name) {
  add("&View", "Layout: " + name, {}, [this, name] { set_layout(name); });
}

void MainWindow::set_theme(const QString& name) {
  QPalette palette = own_palette_;
  if (name != "system") {
    const Look look = look_of(name, 0);
    for (const QPalette::ColorGroup group : {QPalette::Active, QPalette::Inactive, QPalette::Disabled}) {
      const QColor ink = group == QPalette::Disabled ? look.faint.darker(look.dark ? 130 : 80) : look.ink;
      palette.setColor(group, QPalette::Window, look.panel);
      palette.setColor(group, QPalette::Base, look.ground);
      palette.setColor(group, QPalette::AlternateBase, look.panel);
      palette.setColor(group, QPalette::Button, look.panel);
      for (const QPalette::ColorRole role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText})
        palette.setColor(group, role, ink);
      palette.setColor(group, QPalette::PlaceholderText, look.faint);
      palette.setColor(group, QPalette::ToolTipBase, look.panel);
      palette.setColor(group, QPalette::ToolTipText, look.ink);
    }
  }
  setPalette(palette);
  for (QWidget* widget : findChildren<QWidget*>()) widget->setPalette(palette);
  if (!fresh_) QSettings().setValue("theme", name);
}

void MainWindow::change_map(const std::function<void(MapOptions&)>& change) {
  MapOptions map = desk_->input().map;
  change(map);
  desk_->set_map(map);
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
  if (event->mimeData()->hasUrls()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) {
  for (const QUrl& url : event->mimeData()->urls())
    if (url.isLocalFile()) open_file(url.toLocalFile());
}

void MainWindow::closeEvent(QCloseEvent* event) {
  if (!fresh_) {
    QSettings settings;
    settings.setValue("geometry", saveGeometry());
    settings.setValue("docks", saveState());
  }
  QMainWindow::closeEvent(event);
}

}  // namespace kvgrind::gui
