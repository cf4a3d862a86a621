// What is open and what is looked at: session, selection with history, policies and their results, map options.
// Views and panels read it and listen; nothing here is a widget.
#pragma once
#include <QJsonObject>
#include <QObject>
#include <map>
#include <memory>

#include "gui/jobs/job_runner.h"
#include "gui/models/colours.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

class Desk final : public QObject {
  Q_OBJECT
 public:
  explicit Desk(JobRunner& runner, QObject* parent = nullptr);

  struct Policy {
    std::string policy, budget;
    bool shown = true;
    std::size_t colour = 0;
    QString state;  // "running", "done", or why not
  };

  void open(std::shared_ptr<const replay::Session> session, const QString& path);
  void open_results_alone(const QString& path, std::shared_ptr<const std::vector<traces::ResultRow>> rows);
  void close();
  bool is_open() const { return input_.session || file_rows_; }
  // What everything is held against: another trace, or other results. Stays until the file is closed.
  void set_base(std::shared_ptr<const replay::Session> session, const QString& path);
  void set_base(std::shared_ptr<const std::vector<traces::ResultRow>> rows, const QString& path);
  const QString& base_path() const { return base_path_; }
  const QString& path() const { return path_; }
  const QString& results_path() const { return results_path_; }
  const ViewInput& input() const { return input_; }  // jobs: shown ones that are done
  const Selection& at() const { return input_.at; }
  Limits limits() const { return limits_of(input_); }

  // Changes the selection by `change`, brings it within limits, remembers it.
  void select(const std::function<void(Selection&)>& change);
  void back();
  void forward();
  bool can_back() const { return history_.can_back(); }
  bool can_forward() const { return history_.can_forward(); }
  void set_map(const MapOptions& map);

  const std::vector<Policy>& policies() const { return policies_; }
  void add_policy(const std::string& policy, const std::string& budget);
  void remove_policy(std::size_t index);
  void show_policy(std::size_t index, bool shown);
  void cancel_jobs();
  void add_chosen();  // the chosen jobs that are not among the policies yet
  // What the Pareto front has across and upwards; empty: the usual.
  void set_axes(const std::string& x, const std::string& y);
  void open_results(const QString& path, std::shared_ptr<const std::vector<traces::ResultRow>> rows);

  QJsonObject session_json() const;
  void restore(const QJsonObject& object);  // selection, policies, map; not the files

 Q_SIGNALS:
  void opened();
  void selection_changed();
  void inputs_changed();  // jobs, rows or map
  void policies_changed();
  void message(const QString& text);

 private:
  using Key = std::tuple<std::string, std::string, std::int64_t>;
  void moved(const Selection& before);
  void load_text();
  void run_missing();
  bool chosen(const Policy& policy) const;
  void run(const Policy& policy, std::int64_t sequence);
  void run_on_base(const Policy& policy);
  void rebuild();
  std::int64_t first_sequence() const;
  std::vector<std::int64_t> measured_sequences() const;

  JobRunner& runner_;
  QString path_, results_path_, base_path_;
  ViewInput input_;
  SelectionHistory history_;
  std::vector<Policy> policies_;
  std::map<Key, std::shared_ptr<const replay::JobView>> views_;  // with timeline, of few sequences
  std::map<Key, traces::ResultRow> rows_;
  std::map<Key, QString> faults_;
  std::map<Key, CancelToken> running_;
  // Of the trace held against: figures alone, on the sequences that both have.
  std::map<Key, traces::ResultRow> base_rows_;
  std::map<Key, CancelToken> base_jobs_;
  std::shared_ptr<const std::vector<traces::ResultRow>> file_rows_;
  std::size_t next_colour_ = 0;
  unsigned generation_ = 0;
};

}  // namespace kvgrind::gui
