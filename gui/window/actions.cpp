// Every action of the window, once: menus, keys and the palette show the same list.
#include <QAction>
#include <QApplication>
#include <QClipboard>
#include <QDialog>
#include <QDockWidget>
#include <QFileDialog>
#include <QInputDialog>
#include <QLineEdit>
#include <QListWidget>
#include <QMenuBar>
#include <QMessageBox>
#include <QRegularExpression>
#include <QTabWidget>
#include <QVBoxLayout>
#include <algorithm>

#include "gui/models/pareto.h"
#include "gui/models/table.h"
#include "gui/window/main_window.h"
#include "gui/window/panels.h"
#include "gui/window/policies_panel.h"

namespace kvgrind::gui {
namespace {

// A key that buttons, tables and fields use themselves (Space, letters, Home …): ours only while a view has the focus.
bool is_plain(const QKeySequence& keys) {
  if (keys.isEmpty() || (keys[0].keyboardModifiers() & ~Qt::ShiftModifier)) return false;
  const Qt::Key key = keys[0].key();
  return key < Qt::Key_Escape || key == Qt::Key_Home || key == Qt::Key_End || key == Qt::Key_PageUp ||
         key == Qt::Key_PageDown;
}

}  // namespace

QAction* MainWindow::add(const QString& menu, const QString& text, const QKeySequence& keys, Do what) {
  QMenu* into = nullptr;
  for (QAction* one : menuBar()->actions())
    if (one->menu() && one->menu()->title() == menu) into = one->menu();
  if (!into) into = menuBar()->addMenu(menu);
  QAction* action = into->addAction(text);
  action->setShortcut(keys);
  if (is_plain(keys)) {
    action->setShortcutContext(Qt::WidgetWithChildrenShortcut);
    tabs_->addAction(action);
    if (const auto dock = docks_.find("Token text"); dock != docks_.end()) dock->second->widget()->addAction(action);
  }
  connect(action, &QAction::triggered, this, std::move(what));
  actions_.push_back(action);
  return action;
}

void MainWindow::build_actions() {
  add("&File", "Open…", QKeySequence("Ctrl+O"), [this] {
    const QString path = QFileDialog::getOpenFileName(
        this, "Open", {}, "Traces, results and sessions (*.kvt *.part *.jsonl *.kvsession);;All files (*)");
    if (!path.isEmpty()) open_file(path);
  });
  add("&File", "Open the built-in example", {}, [this] { open_example(); });
  add("&File", "Open results beside the trace…", {}, [this] {
    const QString path = QFileDialog::getOpenFileName(this, "Open results", {}, "Results (*.jsonl)");
    if (!path.isEmpty()) open_results(path);
  });
  add("&File", "Compare with another file…", QKeySequence("Ctrl+D"), [this] {
    if (!desk_->is_open()) return;
    const QString path = QFileDialog::getOpenFileName(this, "Compare with", {},
                                                      "Traces and results (*.kvt *.part *.jsonl);;All files (*)");
    if (!path.isEmpty()) open_base(path);
  });
  add("&File", "Save session…", QKeySequence("Ctrl+S"), [this] {
    if (!desk_->input().session) return;
    const QString path = QFileDialog::getSaveFileName(this, "Save session", {}, "Sessions (*.kvsession)");
    if (!path.isEmpty()) save_session(path.endsWith(".kvsession") ? path : path + ".kvsession");
  });
  add("&File", "Export view…", QKeySequence("Ctrl+E"), [this] {
    if (!current()) return;
    const QString path =
        QFileDialog::getSaveFileName(this, "Export view", QString(current()->row().name) + ".png",
                                     "Pictures, tables and arrays (*.png *.svg *.pdf *.csv *.npy *.html *.json)");
    if (!path.isEmpty()) export_view(path);
  });
  add("&File", "Copy the equal render command", QKeySequence("Ctrl+Shift+E"),
      [this] { QApplication::clipboard()->setText(render_command()); });
  add("&File", "Build the index", {}, [this] { build_index(); });
  add("&File", "Reload", QKeySequence("F5"), [this] {
    if (!desk_->input().session && desk_->is_open()) return open_results(desk_->results_path());
    if (!desk_->input().session) return;
    QJsonObject session = desk_->session_json();
    session["tab"] = tabs_->currentIndex();
    open_trace(desk_->path(), session);
  });
  add("&File", "Close", QKeySequence("Ctrl+W"), [this] { close_file(); });
  add("&File", "Quit", QKeySequence("Ctrl+Q"), [this] { close(); });

  for (int i = 0; i < tabs_->count(); ++i)
    add("&View", tabs_->tabText(i), i < 9 ? QKeySequence(QString("Ctrl+%1").arg(i + 1)) : QKeySequence(),
        [this, i] { go_to_view(i); });
  add("&View", "Next view", QKeySequence("Ctrl+Tab"),
      [this] { go_to_view((tabs_->currentIndex() + 1) % tabs_->count()); });
  for (const char* layout : {"Explore", "Compare", "Paper", "Results"})
    add("&View", QString("Layout: %1").arg(layout), {}, [this, layout] { set_layout(layout); });
  add("&View", "Save this layout…", {}, [this] { ask_layout(); });
  for (const char* theme : {"system", "light", "dark"})
    add("&View", QString("Theme: %1").arg(theme), {}, [this, theme] { set_theme(theme); });
  build_map_actions();
  build_pareto_actions();

  add("&Go", "Back", QKeySequence("Alt+Left"), [this] { desk_->back(); });
  add("&Go", "Forward", QKeySequence("Alt+Right"), [this] { desk_->forward(); });
  add("&Go", "Go to layer, head, token…", QKeySequence("Ctrl+G"), [this] { ask_place(); });
  add("&Go", "Find text…", QKeySequence("Ctrl+F"), [this] { ask_text(false); });
  add("&Go", "Find next", QKeySequence("F3"), [this] { ask_text(true); });
  const auto move = [this](const QString& text, const char* keys, std::function<void(Selection&)> change) {
    add("&Go", text, QKeySequence(keys), [this, change] { desk_->select(change); });
  };
  move("Layer up", "PgUp", [](Selection& s) { --s.layer; });
  move("Layer down", "PgDown", [](Selection& s) { ++s.layer; });
  move("Previous head", "[", [](Selection& s) { --s.query_head; });
  move("Next head", "]", [](Selection& s) { ++s.query_head; });
  move("First token", "Home", [](Selection& s) { s.key_at = 0; });
  add("&Go", "Last token", QKeySequence("End"),
      [this] { desk_->select([last = desk_->limits().tokens - 1](Selection& s) { s.key_at = last; }); });
  add("&Go", "Step back", QKeySequence(","), [this] { steps_->step(-1); });
  add("&Go", "Step forward", QKeySequence("."), [this] { steps_->step(1); });
  add("&Go", "Ten steps back", QKeySequence("Shift+,"), [this] { steps_->step(-10); });
  add("&Go", "Ten steps forward", QKeySequence("Shift+."), [this] { steps_->step(10); });
  add("&Go", "Play or pause steps", QKeySequence("Space"), [this] { steps_->play_or_pause(); });

  add("&Policies", "Add a policy…", QKeySequence("Ctrl+P"), [this] {
    if (!desk_->input().session) return;
    docks_["Policies"]->show();
    policies_->focus_policy();
  });
  add("&Policies", "Cancel jobs, then clear the selection", QKeySequence("Esc"), [this] {
    if (!runner_->jobs().empty())
      desk_->cancel_jobs();
    else
      desk_->select([](Selection& s) {
        s.key = s.query = {};
        s.key_at = s.query_at = s.step = -1;
        s.jobs.clear();
      });
  });

  add("&Help", "Help of this view", QKeySequence("F1"), [this] {
    const SceneWidget* widget = current();
    QMessageBox::information(this, widget ? widget->row().title : "kvgrind",
                             widget ? QString(widget->row().help)
                                    : QString("Open a trace, or try the built-in example. Ctrl+K finds every action."));
  });
  add("&Help", "Command palette…", QKeySequence("Ctrl+K"), [this] { show_palette(); });
}

void MainWindow::build_map_actions() {
  add("&Map", "Zoom in", QKeySequence("+"), [this] {
    if (current()) current()->zoom(1.5, {});
  });
  add("&Map", "Zoom out", QKeySequence("-"), [this] {
    if (current()) current()->zoom(1 / 1.5, {});
  });
  add("&Map", "Fit all", QKeySequence("0"), [this] {
    if (current()) current()->fit_all();
  });
  add("&Map", "Fit selection", QKeySequence("F"), [this] {
    if (current()) current()->fit_selection();
  });
  add("&Map", "Log or linear", QKeySequence("L"), [this] { change_map([](MapOptions& m) { m.log = !m.log; }); });
  add("&Map", "Next colour map", QKeySequence("C"),
      [this] { change_map([](MapOptions& m) { m.colours = (m.colours + 1) % colour_maps; }); });
  add("&Map", "Pooling: max, mean, sum", QKeySequence("P"),
      [this] { change_map([](MapOptions& m) { m.pool = static_cast<replay::Pool>((int(m.pool) + 1) % 3); }); });
  add("&Map", "Strips of kept keys", QKeySequence("O"),
      [this] { change_map([](MapOptions& m) { m.overlay = !m.overlay; }); });
  add("&Map", "Difference: of budgets, or to the other trace", QKeySequence("D"),
      [this] { change_map([](MapOptions& m) { m.difference = !m.difference; }); });
  add("&Map", "Kept raster: heads or steps", QKeySequence("Y"),
      [this] { change_map([](MapOptions& m) { m.steps = !m.steps; }); });
  add("&Map", "Sort heads: layer, entropy, sink, recall", QKeySequence("S"), [this] {
    change_map([](MapOptions& m) { m.order = static_cast<HeadOrder>((int(m.order) + 1) % head_orders); });
  });
  add("&Map", "Follow the selected range", QKeySequence("Shift+F"),
      [this] { change_map([](MapOptions& m) { m.follow = !m.follow; }); });
  add("&Map", "Text shaded by attention or by policies", QKeySequence("B"),
      [this] { change_map([](MapOptions& m) { m.received = !m.received; }); });
  add("&Map", "Channels of K or V", QKeySequence("V"),
      [this] { change_map([](MapOptions& m) { m.values = !m.values; }); });
  add("&Map", "Lock this view", QKeySequence("Ctrl+L"), [this] {
    if (SceneWidget* widget = current()) {
      widget->set_locked(!widget->locked());
      tabs_->setTabText(tabs_->currentIndex(), QString(widget->row().title) + (widget->locked() ? " (locked)" : ""));
    }
  });
}

void MainWindow::build_pareto_actions() {
  add("&Policies", "Pareto front: what stands across", QKeySequence("X"), [this] {
    const ViewInput& input = desk_->input();
    const auto* at = std::find(std::begin(pareto_costs), std::end(pareto_costs), input.results_x);
    desk_->set_axes(at + 1 < std::end(pareto_costs) ? at[1] : pareto_costs[0], input.results_y);
  });
  add("&Policies", "Pareto front: choose the figure…", QKeySequence("M"), [this] {
    const ViewInput& input = desk_->input();
    QStringList names{"headline"};
    if (input.rows)
      for (const std::string& name : figures_of(*input.rows)) names << QString::fromStdString(name);
    bool good = false;
    const int at = std::max(0, int(names.indexOf(QString::fromStdString(input.results_y))));
    const QString name = QInputDialog::getItem(this, "Figure", "What the Pareto front shows", names, at, true, &good);
    if (!good) return;
    if (!names.contains(name)) return say("\"" + name + "\" is no figure of these results.");
    desk_->set_axes(input.results_x, name == "headline" ? std::string() : name.toStdString());
  });
  add("&Policies", "Replay the chosen jobs here", {}, [this] { desk_->add_chosen(); });
}

void MainWindow::show_palette() {
  QDialog dialog(this);
  dialog.setObjectName("palette");
  dialog.setWindowTitle("Command palette");
  dialog.resize(520, 420);
  auto* words = new QLineEdit(&dialog);
  words->setAccessibleName("Type a part of an action's name");
  words->setPlaceholderText("Type a part of an action's name");
  auto* list = new QListWidget(&dialog);
  list->setAccessibleName("Actions");
  auto* whole = new QVBoxLayout(&dialog);
  whole->addWidget(words);
  whole->addWidget(list);
  QAction* chosen = nullptr;
  const auto fill = [&] {
    list->clear();
    for (QAction* action : actions_) {
      if (!action->text().contains(words->text(), Qt::CaseInsensitive)) continue;
      auto* item =
          new QListWidgetItem(action->shortcut().isEmpty()
                                  ? action->text()
                                  : action->text() + "    " + action->shortcut().toString(QKeySequence::NativeText),
                              list);
      item->setData(Qt::UserRole, QVariant::fromValue(static_cast<QObject*>(action)));
    }
    list->setCurrentRow(0);
  };
  const auto choose = [&] {
    if (list->currentItem()) chosen = qobject_cast<QAction*>(list->currentItem()->data(Qt::UserRole).value<QObject*>());
    dialog.accept();
  };
  connect(words, &QLineEdit::textChanged, &dialog, fill);
  connect(words, &QLineEdit::returnPressed, &dialog, choose);
  connect(list, &QListWidget::itemActivated, &dialog, choose);
  fill();
  if (dialog.exec() == QDialog::Accepted && chosen) chosen->trigger();
}

void MainWindow::ask_layout() {
  bool good = false;
  const QString name =
      QInputDialog::getText(this, "Save this layout", "Name", QLineEdit::Normal, "Mine", &good).trimmed();
  if (good && !name.isEmpty() && !name.contains('/')) save_layout(name);
}

void MainWindow::ask_place() {
  if (!desk_->input().session) return;
  bool good = false;
  const QString text =
      QInputDialog::getText(this, "Go to", "Layer, query head, key, row, sequence, as in: L12 q5 k1043",
                            QLineEdit::Normal, QString::fromStdString(place_text(desk_->at())), &good);
  if (!good) return;
  Selection probe;
  if (!apply_place(text.toStdString(), probe))
    return say("\"" + text + "\" does not read as a place such as L12 q5 k1043.");
  desk_->select([&](Selection& s) { apply_place(text.toStdString(), s); });
}

void MainWindow::ask_text(bool again) {
  const auto text = desk_->input().text;
  if (!text || text->empty()) return;
  if (!again || last_find_.isEmpty()) {
    bool good = false;
    const QString asked =
        QInputDialog::getText(this, "Find text", "Text, or /regular expression/", QLineEdit::Normal, last_find_, &good);
    if (!good || asked.isEmpty()) return;
    last_find_ = asked;
  }
  const bool pattern = last_find_.size() > 2 && last_find_.startsWith('/') && last_find_.endsWith('/');
  const QRegularExpression expression(pattern ? last_find_.mid(1, last_find_.size() - 2)
                                              : QRegularExpression::escape(last_find_));
  if (!expression.isValid()) return say("The pattern does not read: " + expression.errorString());
  // Over the whole text, so that a match may span tokens; positions are mapped back to tokens.
  QString whole;
  std::vector<qsizetype> begins;
  for (const std::string& token : *text) {
    begins.push_back(whole.size());
    whole += QString::fromStdString(token);
  }
  const auto after = std::size_t(std::max<std::int64_t>(-1, desk_->at().key_at) + 1);
  QRegularExpressionMatch match = expression.match(whole, after < begins.size() ? begins[after] : 0);
  if (!match.hasMatch()) match = expression.match(whole);
  if (!match.hasMatch()) return say("\"" + last_find_ + "\" is not in this sequence.");
  const auto token = std::upper_bound(begins.begin(), begins.end(), match.capturedStart()) - begins.begin() - 1;
  desk_->select([token](Selection& s) { s.key_at = token; });
}

}  // namespace kvgrind::gui
