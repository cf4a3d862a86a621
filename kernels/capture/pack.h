// Packing rows of attention heads that lie anywhere into one dense block, on the device or on the host. What leaves a
// run passes through here once.
#pragma once
#include <cstdint>

#include "kernels/device/device.h"

namespace kvgrind::kernels {

// Row i of head h begins at from + i · row_stride + h · head_stride (bytes) and is row_bytes long.
struct PackRows {
  const void* from = nullptr;
  std::int64_t row_stride = 0, head_stride = 0, row_bytes = 0;
  std::int64_t n = 0, heads = 0;
  const std::int32_t* index = nullptr;  // [n]: which rows, on the side where the rows lie; null = 0 … n − 1
  bool head_major = true;               // to [heads, n, row]; false: to [n, heads, row]
};
void pack_rows(void* to, const PackRows& rows);  // host to host
void pack_rows_on_device(void* to, const PackRows& rows, DeviceStream stream);

}  // namespace kvgrind::kernels
