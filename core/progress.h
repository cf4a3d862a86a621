// Progress of long work, and its cancellation. A job reports through Progress and asks cancelled() often.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

namespace kvgrind {

class CancelToken {
 public:
  void cancel() { flag_->store(true, std::memory_order_relaxed); }
  bool cancelled() const { return flag_->load(std::memory_order_relaxed); }
  void throw_if_cancelled() const;  // Error(interrupted)

 private:
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

// Implemented by the program (bar or lines on stderr) and the GUI. Called from one thread at a time.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void update(std::string_view phase, std::int64_t done, std::int64_t total) = 0;
};

}  // namespace kvgrind
