// Work off the GUI thread: a few workers, priorities, cancellation, progress; what comes back runs on the GUI thread.
#pragma once
#include <QObject>
#include <QThreadPool>
#include <functional>
#include <memory>
#include <vector>

#include "core/progress.h"
#include "gui/models/fault_text.h"

namespace kvgrind::gui {

class JobRunner final : public QObject {
  Q_OBJECT
 public:
  struct Job {
    QString what, phase;
    qint64 done = 0, total = 0;
    CancelToken cancel;
    bool quiet = false;  // not listed: tiles and snapshots of views
  };
  using Finish = std::function<void()>;
  using Work = std::function<Finish(const CancelToken&, Progress&)>;
  using Failed = std::function<void(const FaultText&)>;

  explicit JobRunner(QObject* parent = nullptr);
  ~JobRunner() override;

  // `work` on a worker, then what it returns on the GUI thread, unless cancelled by then. An error goes to `failed`
  // (not when cancelled). Higher priority first.
  CancelToken run(const QString& what, int priority, Work work, Failed failed = {}, bool quiet = false);
  const std::vector<std::shared_ptr<Job>>& jobs() const { return jobs_; }  // listed ones, oldest first
  void cancel_all();
  bool idle() const { return running_ == 0; }

 Q_SIGNALS:
  void changed();
  void settled();  // nothing is left to do

 private:
  void finish(const std::shared_ptr<Job>& job);
  QThreadPool pool_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::vector<CancelToken> tokens_;
  int running_ = 0;
};

}  // namespace kvgrind::gui
