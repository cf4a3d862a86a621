// A bounded spool between a run and one writer thread: host memory handed out in order as a ring, consumed in order by
// the thread, then free again. Of a device the memory is pinned and a copy stream fills it. The run that is being
// recorded waits only when the spool is full, and that is counted.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "kernels/device/device.h"

namespace kvgrind::kernels {

class CaptureSpool {
 public:
  static constexpr int no_device = -1;  // plain memory, filled by the caller before submit()
  // Error(unavailable) when that much memory cannot be pinned.
  // `before_block` runs on the writer thread before each block is consumed, with its size (tests: a slow disk).
  CaptureSpool(int device, std::int64_t spool_bytes, std::function<void(std::int64_t)> before_block = {});
  // Stops the thread after the block in hand; what is queued is dropped. Call drain() first to keep it.
  ~CaptureSpool();
  CaptureSpool(const CaptureSpool&) = delete;
  CaptureSpool& operator=(const CaptureSpool&) = delete;

  DeviceStream copy_stream() const { return stream_.get(); }
  std::int64_t capacity_bytes() const { return size_bytes_; }
  // Of what is free now; reserve() of a block waits where has_room() says no.
  std::int64_t free_bytes() const;
  bool has_room(std::int64_t size_bytes) const;

  // The next `size_bytes` of the spool (at most its capacity), waiting for room. Follow it by submit(), on the same
  // thread. Throws what the consumer threw, if it did.
  std::byte* reserve(std::int64_t size_bytes);
  // `consume` runs on the writer thread once the work now queued on the copy stream is done, after all earlier ones.
  void submit(std::function<void()> consume);
  // Waits until everything submitted has been consumed. Throws what the consumer threw.
  void drain();

  struct Counts {
    std::int64_t blocks = 0, bytes = 0, peak_bytes = 0;  // peak: most held at once
    std::int64_t waits = 0;                              // reservations that found the spool full
    double waited_ms = 0.0;
  };
  Counts counts() const;

 private:
  struct Block {
    std::int64_t begin = 0, size_bytes = 0;
    EventHandle copied;
    std::function<void()> consume;
    bool submitted = false;
  };
  bool fits(std::int64_t size_bytes, std::int64_t& at) const;
  void run();

  std::byte* memory() const { return device_ == no_device ? plain_.get() : pinned_.as<std::byte>(); }

  int device_;
  std::int64_t size_bytes_;
  std::function<void(std::int64_t)> before_block_;
  PinnedBuffer pinned_;
  std::unique_ptr<std::byte[]> plain_;
  StreamHandle stream_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> blocks_;  // oldest first; the last may still wait for submit()
  std::int64_t held_bytes_ = 0;
  Counts counts_;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace kvgrind::kernels
