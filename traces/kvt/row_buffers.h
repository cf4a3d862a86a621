// Buffers between a tap and a file: token rows wait here until their chunk is full or their commit is due.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/tap.h"
#include "core/view.h"
#include "traces/kvt/schema.h"

namespace kvgrind::traces {

// Room for one chunk of rows; the last holder gives it back to the buffer it came from, for the next chunk.
using Block = std::shared_ptr<std::byte>;

// Rows of k, v, q or lse in the file's dtype: of each (layer, head) one chunk of them, [capacity][width]. Blocks exist
// only where rows wait, so a pass that fills whole chunks needs those of a layer or two.
class GroupBuffer {
 public:
  GroupBuffer() = default;
  GroupBuffer(DType dtype, std::int64_t layers, std::int64_t heads, std::int64_t capacity, std::int64_t width);

  // Rows `from[i]` of one head of x [n, heads, width] into places at, at+1, … Heads may be filled in parallel.
  void put(std::int64_t layer, std::int64_t head, std::int64_t at, View<const float, 3> x,
           std::span<const std::int64_t> from);
  // The same from rows in the run's own type: copied as they are when that is the file's.
  void put(std::int64_t layer, std::int64_t head, std::int64_t at, const TapRows& x,
           std::span<const std::int64_t> from);
  const std::byte* rows(std::int64_t layer, std::int64_t head) const;  // null before the first put
  Block take(std::int64_t layer, std::int64_t head);                   // the rows, which then are no longer here
  std::int64_t row_bytes() const { return width_ * size_bytes(dtype_); }
  std::int64_t heads() const { return heads_; }

 private:
  struct Spare;
  std::byte* room(std::int64_t layer, std::int64_t head, std::int64_t at);

  DType dtype_ = DType::f32;
  std::int64_t heads_ = 0, capacity_ = 0, width_ = 0;
  std::vector<Block> blocks_;     // [layers][heads]
  std::shared_ptr<Spare> spare_;  // blocks that nobody holds; outlives them
};

// Uncommitted rows of one small per-token dataset, oldest first.
class RowBuffer {
 public:
  explicit RowBuffer(std::int64_t row_bytes = 0) : row_bytes_(row_bytes) {}

  template <class T>
  void push(const T& value) {
    const std::size_t size = bytes_.size();
    bytes_.resize(size + sizeof(T));
    std::memcpy(bytes_.data() + size, &value, sizeof(T));
  }
  void push_bytes(const void* data, std::size_t n) {
    const std::byte* from = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), from, from + n);
  }
  // Makes `rows` rows, new ones filled with copies of `value`.
  template <class T>
  void extend(std::int64_t rows, T value) {
    const std::size_t old = bytes_.size(), size = static_cast<std::size_t>(rows * row_bytes_);
    if (size <= old) return;
    bytes_.resize(size);
    for (std::size_t at = old; at < size; at += sizeof(T)) std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  template <class T>
  void set(std::int64_t row, std::int64_t column, T value) {
    std::memcpy(bytes_.data() + row * row_bytes_ + column * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
  }
  void drop_front(std::int64_t rows) { bytes_.erase(bytes_.begin(), bytes_.begin() + rows * row_bytes_); }
  void keep_front(std::int64_t rows) { bytes_.resize(static_cast<std::size_t>(rows * row_bytes_)); }
  const std::byte* data() const { return bytes_.data(); }
  std::int64_t row_bytes() const { return row_bytes_; }

 private:
  std::int64_t row_bytes_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace kvgrind::traces
