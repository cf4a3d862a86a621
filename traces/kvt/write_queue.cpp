#include "traces/kvt/write_queue.h"

#include <utility>

namespace kvgrind::traces {

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  given_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void WriteQueue::throw_fault(std::unique_lock<std::mutex>& lock) {
  if (!fault_) return;
  const std::exception_ptr fault = fault_;
  lock.unlock();
  std::rethrow_exception(fault);
}

void WriteQueue::give(std::int64_t bytes, std::function<void()> work) {
  std::unique_lock lock(mutex_);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  const auto room = [&] { return bytes_ == 0 || (bytes_ <= limit_bytes_ / 2 && bytes_ + bytes <= limit_bytes_); };
  if (bytes_ + bytes > limit_bytes_) done_.wait(lock, [&] { return fault_ || room(); });
  throw_fault(lock);
  bytes_ += bytes;
  waiting_.push_back({bytes, std::move(work)});
  lock.unlock();
  given_.notify_one();
}

void WriteQueue::drain() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return waiting_.empty() && !busy_; });
  throw_fault(lock);
}

std::int64_t WriteQueue::waiting_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

void WriteQueue::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    given_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Piece piece = std::move(waiting_.front());
    waiting_.pop_front();
    const bool dropped = fault_ != nullptr;
    busy_ = true;
    lock.unlock();
    std::exception_ptr fault;
    try {
      if (!dropped) piece.work();
    } catch (...) {
      fault = std::current_exception();
    }
    piece.work = nullptr;  // what it kept in memory is free before anybody hears of it
    lock.lock();
    busy_ = false;
    bytes_ -= piece.bytes;
    if (fault) fault_ = fault;
    if (fault_ || bytes_ <= limit_bytes_ / 2) done_.notify_all();
  }
}

}  // namespace kvgrind::traces
