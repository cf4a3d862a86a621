// A thread that writes: pieces of work are done one after the other, in the order they were given, while the giver goes
// on computing. The first fault ends it: what was given later is dropped, and the fault goes to whoever gives or drains
// next.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace kvgrind::traces {

class WriteQueue {
 public:
  explicit WriteQueue(std::int64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;
  ~WriteQueue();  // when all that was given is done, or dropped after a fault

  // `bytes`: what the work keeps in memory until it is done. When that would make more than the limit, waits until half
  // of it is free: waking a thread for every piece would cost as much as writing it.
  void give(std::int64_t bytes, std::function<void()> work);
  void drain();  // returns when nothing waits and nothing is being done
  std::int64_t waiting_bytes() const;

 private:
  struct Piece {
    std::int64_t bytes = 0;
    std::function<void()> work;
  };
  void run();
  void throw_fault(std::unique_lock<std::mutex>& lock);

  const std::int64_t limit_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable given_, done_;
  std::deque<Piece> waiting_;
  std::int64_t bytes_ = 0;  // of what waits or is being done
  bool busy_ = false, ending_ = false;
  std::exception_ptr fault_;
  std::thread thread_;  // from the first piece on
};

}  // namespace kvgrind::traces
