// A bounded spool between a device and one writer thread: pinned host memory handed out in order as a ring, filled by a
// copy stream, consumed in order by the thread, then free again. The run that is being recorded waits only when the
// spool is full, and that is counted.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "kernels/device/device.h"

namespace kvgrind::kernels {

class CaptureSpool {
 public:
  // Error(unavailable) when that much memory cannot be pinned.
  CaptureSpool(int device, std::int64_t spool_bytes);
  // Stops the thread after the block in hand; what is queued is dropped. Call drain() first to keep it.
  ~CaptureSpool();
  CaptureSpool(const CaptureSpool&) = delete;
  CaptureSpool& operator=(const CaptureSpool&) = delete;

  DeviceStream copy_stream() const { return stream_.get(); }
  std::int64_t capacity_bytes() const { return memory_.size_bytes(); }

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

  int device_;
  PinnedBuffer memory_;
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
