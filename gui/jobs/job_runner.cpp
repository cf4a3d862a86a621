#include "gui/jobs/job_runner.h"

#include <QElapsedTimer>
#include <QPointer>
#include <algorithm>

namespace kvgrind::gui {
namespace {

// Reports to the GUI thread, ten times a second at most.
class Report final : public Progress {
 public:
  explicit Report(std::function<void(QString, qint64, qint64)> send) : send_(std::move(send)) { timer_.start(); }
  void update(std::string_view phase, std::int64_t done, std::int64_t total) override {
    if (sent_ && timer_.elapsed() < 100 && done < total) return;
    sent_ = true;
    timer_.restart();
    send_(QString::fromUtf8(phase.data(), qsizetype(phase.size())), done, total);
  }

 private:
  std::function<void(QString, qint64, qint64)> send_;
  QElapsedTimer timer_;
  bool sent_ = false;
};

}  // namespace

JobRunner::JobRunner(QObject* parent) : QObject(parent) {
  pool_.setMaxThreadCount(std::max(3, QThread::idealThreadCount()));
}

JobRunner::~JobRunner() {
  cancel_all();
  pool_.clear();
  pool_.waitForDone();
}

void JobRunner::cancel_all() {
  for (CancelToken& token : tokens_) token.cancel();
  tokens_.clear();
}

CancelToken JobRunner::run(const QString& what, int priority, Work work, Failed failed, bool quiet) {
  auto job = std::make_shared<Job>();
  job->what = what;
  job->quiet = quiet;
  ++running_;
  tokens_.push_back(job->cancel);
  if (tokens_.size() > 512) tokens_.erase(tokens_.begin(), tokens_.begin() + 256);
  if (!quiet) {
    jobs_.push_back(job);
    Q_EMIT changed();
  }
  const QPointer<JobRunner> self(this);
  const auto post = [self](std::function<void()> call) {
    if (self) QMetaObject::invokeMethod(self.data(), std::move(call), Qt::QueuedConnection);
  };
  pool_.start(
      [self, job, post, work = std::move(work), failed = std::move(failed)] {
        Finish done;
        try {
          Report report([&](const QString& phase, qint64 at, qint64 total) {
            post([self, job, phase, at, total] {
              job->phase = phase;
              job->done = at;
              job->total = total;
              if (self && !job->quiet) Q_EMIT self->changed();
            });
          });
          job->cancel.throw_if_cancelled();
          done = work(job->cancel, report);
        } catch (const Error& error) {
          if (failed && !job->cancel.cancelled()) done = [failed, text = fault_text(error)] { failed(text); };
        } catch (const std::bad_alloc&) {
          if (failed) done = [failed, job] { failed(fault_text(job->what.toStdString(), "not enough memory")); };
        } catch (const std::exception& error) {
          if (failed) done = [failed, text = fault_text(job->what.toStdString(), error.what())] { failed(text); };
        }
        post([self, job, done] {
          if (!self) return;
          if (done && !job->cancel.cancelled()) done();
          if (self) self->finish(job);
        });
      },
      priority);
  return job->cancel;
}

void JobRunner::finish(const std::shared_ptr<Job>& job) {
  --running_;
  if (!job->quiet) {
    std::erase(jobs_, job);
    Q_EMIT changed();
  }
  if (running_ == 0) Q_EMIT settled();
}

}  // namespace kvgrind::gui
