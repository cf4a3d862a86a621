// The window: start, loading, error or workspace; one action for everything, found by keys, menus and Ctrl+K.
#pragma once
#include <QMainWindow>
#include <QStringList>
#include <vector>

#include "gui/window/desk.h"
#include "gui/window/scene_widget.h"

class QLabel;
class QPlainTextEdit;
class QStackedWidget;
class QTabWidget;

namespace kvgrind::gui {

class ErrorPage;
class LoadingPage;
class PoliciesPanel;
class StartPage;
class StepBar;

class MainWindow final : public QMainWindow {
  Q_OBJECT
 public:
  explicit MainWindow(bool fresh, QWidget* parent = nullptr);  // fresh: reads and writes no settings
  ~MainWindow() override;

  void open_file(const QString& path);  // trace, results or session, by its ending
  void open_example();
  // A file of the same sort that everything is held against, once something is open.
  void open_base(const QString& path);
  void export_view(const QString& path);
  QString render_command() const;  // the equal `kvgrind render` line
  void go_to_view(int index);
  void go_to_view(const std::string& name);
  void save_layout(const QString& name);  // the docks as they are, under a name of one's own
  Desk& desk() { return *desk_; }
  JobRunner& runner() { return *runner_; }
  QTabWidget& tabs() { return *tabs_; }
  SceneWidget& view(int index) const { return *views_[std::size_t(index)]; }
  SceneWidget* current() const;
  int page() const;
  QString error_text() const;
  const QList<QAction*>& all_actions() const { return actions_; }
  enum Page { start, loading, error, workspace };

 protected:
  void dragEnterEvent(QDragEnterEvent* event) override;
  void dropEvent(QDropEvent* event) override;
  void closeEvent(QCloseEvent* event) override;

 private:
  using Do = std::function<void()>;
  QAction* add(const QString& menu, const QString& text, const QKeySequence& keys, Do what);
  void build_workspace();
  void build_actions();
  void build_map_actions();
  void build_pareto_actions();
  void open_trace(const QString& path, const QJsonObject& session = {});
  void open_results(const QString& path);
  void show_workspace(const QString& path);
  void open_session(const QString& path);
  void save_session(const QString& path);
  void show_page(Page page);
  void close_file();
  void build_index();
  void show_error(const FaultText& fault);
  void remember(const QString& path);
  void set_theme(const QString& name);
  void set_layout(const QString& name);
  void ask_layout();
  void add_layout_action(const QString& name);
  void show_palette();
  void ask_place();
  void ask_text(bool again);
  void say(const QString& text);
  void change_map(const std::function<void(MapOptions&)>& change);

  bool fresh_;
  JobRunner* runner_;
  Desk* desk_;
  QStackedWidget* pages_;
  StartPage* start_;
  LoadingPage* loading_;
  ErrorPage* error_;
  QTabWidget* tabs_;
  std::vector<SceneWidget*> views_;
  PoliciesPanel* policies_ = nullptr;
  StepBar* steps_ = nullptr;
  QPlainTextEdit* log_ = nullptr;
  QLabel* pointed_ = nullptr;
  std::map<QString, QDockWidget*> docks_;
  std::map<QString, QByteArray> layouts_;  // a person's own, by name
  QList<QAction*> actions_;
  CancelToken opening_;
  unsigned opening_number_ = 0;
  QString last_find_;
  QPalette own_palette_;
};

}  // namespace kvgrind::gui
