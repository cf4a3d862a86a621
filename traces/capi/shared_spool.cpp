#include "traces/capi/shared_spool.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace kvgrind::traces {
namespace {

Error memory_fault(std::int64_t bytes, const char* doing) {
  return Error(Category::unavailable, {.doing = doing,
                                       .on = fmt::format("a spool of {} MiB", bytes >> 20),
                                       .found = std::strerror(errno),
                                       .next = "give a smaller spool"});
}

void wake(int socket) {
  const char one = 1;
  (void)send(socket, &one, 1, MSG_NOSIGNAL | MSG_DONTWAIT);  // a full buffer wakes just as well
}

// Takes what wakes have been sent; false at end of file.
bool take_wakes(int socket) {
  char buffer[256];
  while (true) {
    const ssize_t n = recv(socket, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0) continue;
    if (n == 0) return false;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == EWOULDBLOCK;
  }
}

}  // namespace

int close_spool_descriptor(int descriptor) noexcept { return close(descriptor); }

SpoolMemory::SpoolMemory(SpoolDescriptor descriptor, std::int64_t ring_bytes)
    : descriptor_(std::move(descriptor)), ring_bytes_(ring_bytes) {
  void* at = mmap(nullptr, static_cast<std::size_t>(control_bytes + ring_bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                  descriptor_.get(), 0);
  if (at == MAP_FAILED) throw memory_fault(ring_bytes, "mapping shared memory");
  control_ = static_cast<SpoolControl*>(at);
}

SpoolMemory::SpoolMemory(SpoolMemory&& other) noexcept
    : descriptor_(std::move(other.descriptor_)),
      control_(std::exchange(other.control_, nullptr)),
      ring_bytes_(other.ring_bytes_) {}

SpoolMemory::~SpoolMemory() {
  if (control_) munmap(control_, static_cast<std::size_t>(control_bytes + ring_bytes_));
}

SpoolMemory SpoolMemory::create(std::int64_t ring_bytes) {
  ring_bytes = (ring_bytes + 4095) / 4096 * 4096;
  SpoolDescriptor descriptor(memfd_create("kvgrind-spool", MFD_CLOEXEC));
  if (!descriptor || ftruncate(descriptor.get(), control_bytes + ring_bytes) != 0)
    throw memory_fault(ring_bytes, "making shared memory");
  SpoolMemory memory(std::move(descriptor), ring_bytes);
  new (memory.control_) SpoolControl;
  memory.control_->ring_bytes = ring_bytes;
  return memory;
}

SpoolMemory SpoolMemory::attach(int descriptor) {
  struct stat status {};
  if (fstat(descriptor, &status) != 0 || status.st_size <= control_bytes)
    throw Error(
        Category::damaged,
        {.doing = "opening the spool", .on = "descriptor 3", .found = "no shared memory", .expected = "a spool"});
  SpoolMemory memory(SpoolDescriptor(descriptor), status.st_size - control_bytes);
  if (memory.control_->version != wire::version || memory.control_->ring_bytes != memory.ring_bytes_)
    throw Error(Category::damaged, {.doing = "opening the spool",
                                    .on = "descriptor 3",
                                    .found = fmt::format("version {}", memory.control_->version),
                                    .expected = fmt::format("version {}", wire::version),
                                    .next = "use library and writer of one build"});
  return memory;
}

void SpoolMemory::touch() const {
  constexpr std::int64_t page = 4096, piece = 1 << 24;
  parallel_for((ring_bytes_ + piece - 1) / piece, [this](std::int64_t i) {
    const std::int64_t end = std::min(ring_bytes_, (i + 1) * piece);
    for (std::int64_t at = i * piece; at < end; at += page)
      std::atomic_ref(reinterpret_cast<std::uint8_t&>(ring()[at])).fetch_or(0);
  });
}

std::int64_t SpoolFeeder::free_bytes() const {
  const std::uint64_t held = reserved_ - memory_.control().released.load(std::memory_order_acquire);
  return memory_.ring_bytes() - static_cast<std::int64_t>(held);
}

bool SpoolFeeder::wait_for_change(int timeout_ms) {
  if (gone_) return false;
  pollfd fd{socket_, POLLIN, 0};
  (void)poll(&fd, 1, timeout_ms);
  if (!take_wakes(socket_)) gone_ = true;
  if (memory_.control().state.load() == static_cast<std::uint32_t>(WriterState::failed)) gone_ = true;
  return !gone_;
}

SpoolFeeder::Outcome SpoolFeeder::reserve(wire::Kind kind, std::int64_t size_bytes, bool wait, std::byte*& message) {
  assert(size_bytes % wire::alignment == 0);
  const std::int64_t ring = memory_.ring_bytes();
  // A message never wraps: where it would, the rest of the ring is skipped.
  const std::int64_t at = static_cast<std::int64_t>(reserved_ % static_cast<std::uint64_t>(ring));
  const std::int64_t skipped = at + size_bytes > ring ? ring - at : 0, needed = skipped + size_bytes;
  if (size_bytes > ring / 2) return Outcome::full;  // so that what is skipped and the message fit together
  if (gone_) return Outcome::writer_gone;
  SpoolControl& control = memory_.control();
  const auto fits = [&] { return free_bytes() >= needed; };
  if (!fits()) {
    if (!wait) return Outcome::full;
    const auto start = std::chrono::steady_clock::now();
    ++waits;
    while (!fits()) {
      control.feeder_waits.store(1);
      if (fits()) break;
      if (!wait_for_change(200)) return Outcome::writer_gone;
    }
    control.feeder_waits.store(0);
    waited_ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }
  if (skipped > 0) {
    const wire::Header skip{.kind = wire::Kind::skip, .size_bytes = skipped};
    std::memcpy(memory_.ring() + at, &skip, sizeof skip);
    reserved_ += static_cast<std::uint64_t>(skipped);
  }
  message = memory_.ring() + reserved_ % static_cast<std::uint64_t>(ring);
  const wire::Header header{.kind = kind, .size_bytes = size_bytes};
  std::memcpy(message, &header, sizeof header);
  reserved_ += static_cast<std::uint64_t>(size_bytes);
  peak_bytes = std::max(peak_bytes, ring - free_bytes());
  return Outcome::ok;
}

void SpoolFeeder::publish(std::uint64_t up_to) {
  SpoolControl& control = memory_.control();
  control.published.store(up_to);
  if (control.reader_waits.exchange(0) != 0) wake(socket_);
}

const wire::Header* SpoolReader::take() {
  const std::uint64_t end = memory_.control().published.load();
  while (read_ < end) {
    const auto* header = reinterpret_cast<const wire::Header*>(
        memory_.ring() + read_ % static_cast<std::uint64_t>(memory_.ring_bytes()));
    read_ += static_cast<std::uint64_t>(header->size_bytes);
    if (header->kind != wire::Kind::skip) return header;
  }
  return nullptr;
}

const wire::Header* SpoolReader::next(const std::atomic<bool>& stop) {
  SpoolControl& control = memory_.control();
  while (!stop) {
    if (const wire::Header* header = take()) return header;
    if (alone_) return nullptr;
    control.reader_waits.store(1);
    if (const wire::Header* header = take()) return header;
    pollfd fd{socket_, POLLIN, 0};
    (void)poll(&fd, 1, 500);
    if (!take_wakes(socket_)) alone_ = true;  // the feeder is gone; what it published is still there
  }
  return nullptr;
}

void SpoolReader::release() {
  SpoolControl& control = memory_.control();
  control.released.store(read_);
  if (control.feeder_waits.exchange(0) != 0) wake(socket_);
}

}  // namespace kvgrind::traces
