#include "traces/kvt/row_buffers.h"

#include "core/parallel.h"

namespace kvgrind::traces {

GroupBuffer::GroupBuffer(DType dtype, std::int64_t layers, std::int64_t heads, std::int64_t capacity,
                         std::int64_t width)
    : dtype_(dtype),
      heads_(heads),
      capacity_(capacity),
      width_(width),
      bytes_(static_cast<std::size_t>(layers * heads * capacity * width * size_bytes(dtype))) {}

const std::byte* GroupBuffer::rows(std::int64_t layer, std::int64_t head) const {
  return bytes_.data() + (layer * heads_ + head) * capacity_ * row_bytes();
}

void GroupBuffer::put(std::int64_t layer, std::int64_t at, View<const float, 3> x, std::span<const std::int64_t> from) {
  assert(at + static_cast<std::int64_t>(from.size()) <= capacity_);
  const auto one_head = [&](std::int64_t head) {
    std::byte* to = bytes_.data() + ((layer * heads_ + head) * capacity_ + at) * row_bytes();
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
  };
  if (from.size() >= 16)
    parallel_for(heads_, one_head);
  else
    for (std::int64_t head = 0; head < heads_; ++head) one_head(head);
}

void GroupBuffer::put(std::int64_t layer, std::int64_t at, const TapRows& x, std::span<const std::int64_t> from) {
  assert(at + static_cast<std::int64_t>(from.size()) <= capacity_);
  const std::int64_t element = size_bytes(x.dtype);
  const auto one_head = [&](std::int64_t head) {
    std::byte* to = bytes_.data() + ((layer * heads_ + head) * capacity_ + at) * row_bytes();
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
  };
  if (from.size() >= 16)
    parallel_for(heads_, one_head);
  else
    for (std::int64_t head = 0; head < heads_; ++head) one_head(head);
}

}  // namespace kvgrind::traces
