// A ring of messages in memory that two processes share: one fills it, one empties it. No locks are shared: whoever
// dies leaves the other able to go on. Either end wakes the other through a socket, whose end of file tells of its
// death.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/handle.h"
#include "traces/capi/wire.h"

namespace kvgrind::traces {

int close_spool_descriptor(int) noexcept;
using SpoolDescriptor = Handle<int, close_spool_descriptor, -1>;

enum class WriterState : std::uint32_t { starting, recording, finished, failed };

// The first page. Offsets count all bytes ever handed over; the place in the ring is the offset modulo its size.
struct SpoolControl {
  std::uint32_t version = wire::version;
  std::int64_t ring_bytes = 0;
  std::atomic<std::uint64_t> published{0};  // messages below this are whole
  std::atomic<std::uint64_t> released{0};   // messages below this are no longer needed
  std::atomic<std::uint32_t> reader_waits{0}, feeder_waits{0};
  std::atomic<std::uint32_t> state{0};  // WriterState
  std::atomic<std::int64_t> committed_rows{0};
  std::atomic<std::int32_t> code{0};  // exit code of the Error below, once state is failed
  char text[3072] = {};
};

class SpoolMemory {
 public:
  static SpoolMemory create(std::int64_t ring_bytes);  // Error(unavailable)
  static SpoolMemory attach(int descriptor);           // Error(damaged)
  SpoolMemory(SpoolMemory&& other) noexcept;
  SpoolMemory& operator=(SpoolMemory&&) = delete;
  ~SpoolMemory();

  int descriptor() const { return descriptor_.get(); }
  SpoolControl& control() const { return *control_; }
  std::byte* ring() const { return reinterpret_cast<std::byte*>(control_) + control_bytes; }
  std::int64_t ring_bytes() const { return ring_bytes_; }
  // Gives every page of the ring its memory, on all cores; contents stay. Page-locking does so on one core, which
  // takes seconds for some GiB.
  void touch() const;
  static constexpr std::int64_t control_bytes = 4096;

 private:
  SpoolMemory(SpoolDescriptor descriptor, std::int64_t ring_bytes);
  SpoolDescriptor descriptor_;
  SpoolControl* control_ = nullptr;
  std::int64_t ring_bytes_ = 0;
};
static_assert(sizeof(SpoolControl) <= SpoolMemory::control_bytes);

// The filling end. Messages are reserved and published in order.
class SpoolFeeder {
 public:
  SpoolFeeder(SpoolMemory& memory, int socket) : memory_(memory), socket_(socket) {}

  enum class Outcome : std::uint8_t { ok, full, writer_gone };
  // A message of `size_bytes` in all, at most half the ring (else `full` at once); its header is filled in. Waits for
  // room when asked to.
  Outcome reserve(wire::Kind kind, std::int64_t size_bytes, bool wait, std::byte*& message);
  std::uint64_t reserved() const { return reserved_; }
  void publish(std::uint64_t up_to);  // an earlier value of reserved()

  std::int64_t free_bytes() const;
  std::int64_t waits = 0;
  double waited_ms = 0.0;
  std::int64_t peak_bytes = 0;
  // False once the writer is dead or has failed.
  bool wait_for_change(int timeout_ms);
  bool writer_gone() const { return gone_; }

 private:
  SpoolMemory& memory_;
  int socket_;
  std::uint64_t reserved_ = 0;
  bool gone_ = false;
};

// The emptying end.
class SpoolReader {
 public:
  SpoolReader(SpoolMemory& memory, int socket) : memory_(memory), socket_(socket) {}
  // The next message, waiting for it; null when the feeder is gone and nothing is left, or `stop` was set.
  const wire::Header* next(const std::atomic<bool>& stop);
  // Nothing waits behind what was read so far.
  bool idle() const { return memory_.control().published.load() == read_; }
  // All messages read so far may be overwritten.
  void release();

 private:
  const wire::Header* take();
  SpoolMemory& memory_;
  int socket_;
  std::uint64_t read_ = 0;
  bool alone_ = false;
};

}  // namespace kvgrind::traces
