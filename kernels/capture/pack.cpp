#include "kernels/capture/pack.h"

#include <cstring>

namespace kvgrind::kernels {

void pack_rows(void* to, const PackRows& rows) {
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(rows.from);
  const bool dense = rows.index == nullptr && rows.head_major && rows.row_stride == rows.row_bytes;
  for (std::int64_t h = 0; h < rows.heads; ++h) {
    if (dense) {
      std::memcpy(out + h * rows.n * rows.row_bytes, in + h * rows.head_stride,
                  static_cast<std::size_t>(rows.n * rows.row_bytes));
      continue;
    }
    for (std::int64_t i = 0; i < rows.n; ++i) {
      const std::int64_t row = rows.index ? rows.index[i] : i;
      const std::int64_t at = rows.head_major ? h * rows.n + i : i * rows.heads + h;
      std::memcpy(out + at * rows.row_bytes, in + row * rows.row_stride + h * rows.head_stride,
                  static_cast<std::size_t>(rows.row_bytes));
    }
  }
}

}  // namespace kvgrind::kernels
