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

}  // namespace kvgrind::traces
