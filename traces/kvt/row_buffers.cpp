#include "traces/kvt/row_buffers.h"

#include <cassert>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace kvgrind::traces {

// The block given back last is taken first: it is still in the processor's caches.
struct GroupBuffer::Spare {
  ~Spare() {
    for (std::byte* block : blocks) std::free(block);
  }
  std::byte* get(std::int64_t bytes) {
    {
      const std::lock_guard lock(mutex);
      if (!blocks.empty()) {
        std::byte* block = blocks.back();
        blocks.pop_back();
        return block;
      }
    }
    constexpr std::size_t page = 4096;
    void* fresh = std::aligned_alloc(page, (static_cast<std::size_t>(bytes) + page - 1) / page * page);
    if (!fresh) throw std::bad_alloc();
    return static_cast<std::byte*>(fresh);
  }
  void give_back(std::byte* block) {
    const std::lock_guard lock(mutex);
    blocks.push_back(block);
  }
  std::mutex mutex;
  std::vector<std::byte*> blocks;
};

GroupBuffer::GroupBuffer(DType dtype, std::int64_t layers, std::int64_t heads, std::int64_t capacity,
                         std::int64_t width)
    : dtype_(dtype),
      heads_(heads),
      capacity_(capacity),
      width_(width),
      blocks_(static_cast<std::size_t>(layers * heads)),
      spare_(std::make_shared<Spare>()) {}

std::byte* GroupBuffer::room(std::int64_t layer, std::int64_t head, std::int64_t at) {
  Block& block = blocks_[static_cast<std::size_t>(layer * heads_ + head)];
  if (!block)
    block =
        Block(spare_->get(capacity_ * row_bytes()), [spare = spare_](std::byte* unused) { spare->give_back(unused); });
  return block.get() + at * row_bytes();
}

const std::byte* GroupBuffer::rows(std::int64_t layer, std::int64_t head) const {
  return blocks_[static_cast<std::size_t>(layer * heads_ + head)].get();
}

Block GroupBuffer::take(std::int64_t layer, std::int64_t head) {
  return std::exchange(blocks_[static_cast<std::size_t>(layer * heads_ + head)], nullptr);
}

void GroupBuffer::put(std::int64_t layer, std::int64_t head, std::int64_t at, View<const float, 3> x,
                      std::span<const std::int64_t> from) {
  assert(at + static_cast<std::int64_t>(from.size()) <= capacity_);
  std::byte* to = room(layer, head, at);
  std::vector<float> copy;
  for (const std::int64_t i : from) {
    if (x.stride(2) == 1 || width_ == 1) {
      from_f32(dtype_, &x(i, head, 0), width_, to);
    } else {
      copy.resize(static_cast<std::size_t>(width_));
      for (std::int64_t d = 0; d < width_; ++d) copy[static_cast<std::size_t>(d)] = x(i, head, d);
      from_f32(dtype_, copy.data(), width_, to);
    }
    to += row_bytes();
  }
}

void GroupBuffer::put(std::int64_t layer, std::int64_t head, std::int64_t at, const TapRows& x,
                      std::span<const std::int64_t> from) {
  assert(at + static_cast<std::int64_t>(from.size()) <= capacity_);
  const std::int64_t element = size_bytes(x.dtype);
  std::byte* to = room(layer, head, at);
  const std::byte* rows = static_cast<const std::byte*>(x.data) + head * x.head_stride * element;
  std::vector<float> wide(x.dtype == dtype_ ? 0 : static_cast<std::size_t>(width_));
  for (std::size_t i = 0; i < from.size();) {
    if (x.dtype != dtype_) {
      to_f32(x.dtype, rows + from[i] * x.row_stride * element, width_, wide.data());
      from_f32(dtype_, wide.data(), width_, to);
      to += row_bytes(), ++i;
      continue;
    }
    std::size_t end = i + 1;  // a run of rows that lie one behind the other is one copy
    while (x.row_stride == width_ && end < from.size() && from[end] == from[end - 1] + 1) ++end;
    const std::int64_t bytes = static_cast<std::int64_t>(end - i) * row_bytes();
    std::memcpy(to, rows + from[i] * x.row_stride * element, static_cast<std::size_t>(bytes));
    to += bytes, i = end;
  }
}

}  // namespace kvgrind::traces
