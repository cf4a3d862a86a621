#include "kernels/capture/spool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "core/error.h"

namespace kvgrind::kernels {

namespace {

std::int64_t rounded(std::int64_t size_bytes) { return std::max<std::int64_t>(1, (size_bytes + 255) / 256) * 256; }

}  // namespace

CaptureSpool::CaptureSpool(int device, std::int64_t spool_bytes, std::function<void(std::int64_t)> before_block)
    : device_(device), size_bytes_(spool_bytes), before_block_(std::move(before_block)) {
  if (device == no_device) {
    plain_.reset(new std::byte[static_cast<std::size_t>(spool_bytes)]);
  } else {
    use_device(device);
    pinned_ = PinnedBuffer(spool_bytes, "the recording's spool");
    stream_ = make_stream();
  }
  thread_ = std::thread([this] { run(); });
}

CaptureSpool::~CaptureSpool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (device_ == no_device) return;
  try {
    synchronize(stream_.get());  // nothing may still be writing into the memory
  } catch (...) {
  }
}

// Free space begins after the newest block and ends at the oldest; a block never wraps.
bool CaptureSpool::fits(std::int64_t size_bytes, std::int64_t& at) const {
  at = 0;
  if (blocks_.empty()) return size_bytes <= size_bytes_;
  const std::int64_t oldest = blocks_.front().begin, next = blocks_.back().begin + blocks_.back().size_bytes;
  const bool wrapped = blocks_.back().begin < oldest;
  if (!wrapped && next + size_bytes <= size_bytes_) {
    at = next;
    return true;
  }
  if (!wrapped) return size_bytes <= oldest;
  at = next;
  return next + size_bytes <= oldest;
}

std::int64_t CaptureSpool::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return size_bytes_ - held_bytes_;
}

bool CaptureSpool::has_room(std::int64_t size_bytes) const {
  const std::lock_guard lock(mutex_);
  std::int64_t at = 0;
  return fits(rounded(size_bytes), at);
}

std::byte* CaptureSpool::reserve(std::int64_t size_bytes) {
  size_bytes = rounded(size_bytes);
  if (size_bytes > size_bytes_)
    throw Error(Category::usage, {.doing = "recording through the spool",
                                  .on = "one block",
                                  .found = fmt::format("{:.1f} MiB", static_cast<double>(size_bytes) / (1 << 20)),
                                  .expected = fmt::format("at most the spool's {:.1f} MiB",
                                                          static_cast<double>(size_bytes_) / (1 << 20)),
                                  .next = "give a larger --spool or a smaller --chunk"});
  std::unique_lock lock(mutex_);
  assert(blocks_.empty() || blocks_.back().submitted);
  std::int64_t at = 0;
  if (!failure_ && !fits(size_bytes, at)) {
    const auto start = std::chrono::steady_clock::now();
    ++counts_.waits;
    changed_.wait(lock, [&] { return failure_ || fits(size_bytes, at); });
    counts_.waited_ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }
  if (failure_) std::rethrow_exception(failure_);
  Block block;
  block.begin = at, block.size_bytes = size_bytes;
  blocks_.push_back(std::move(block));
  held_bytes_ += size_bytes;
  ++counts_.blocks;
  counts_.bytes += size_bytes;
  counts_.peak_bytes = std::max(counts_.peak_bytes, held_bytes_);
  return memory() + at;
}

void CaptureSpool::submit(std::function<void()> consume) {
  EventHandle copied;
  if (device_ != no_device) {
    copied = make_event();
    record_event(copied, stream_.get());
  }
  {
    const std::lock_guard lock(mutex_);
    assert(!blocks_.empty() && !blocks_.back().submitted);
    blocks_.back().copied = std::move(copied);
    blocks_.back().consume = std::move(consume);
    blocks_.back().submitted = true;
  }
  changed_.notify_all();
}

void CaptureSpool::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || blocks_.empty(); });
  if (failure_) std::rethrow_exception(failure_);
}

CaptureSpool::Counts CaptureSpool::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void CaptureSpool::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || (!blocks_.empty() && blocks_.front().submitted); });
    if (stop_ || failure_) return;
    Block& block = blocks_.front();  // stays where it is while newer ones are added behind it
    lock.unlock();
    try {
      if (device_ != no_device) {
        use_device(device_);
        synchronize(block.copied);
      }
      if (before_block_) before_block_(block.size_bytes);
      block.consume();
    } catch (...) {
      lock.lock();
      failure_ = std::current_exception();
      changed_.notify_all();
      return;
    }
    lock.lock();
    held_bytes_ -= block.size_bytes;
    blocks_.pop_front();
    changed_.notify_all();
  }
}

}  // namespace kvgrind::kernels
