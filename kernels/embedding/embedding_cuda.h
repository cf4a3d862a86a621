// Rows of a table on the device: out[i] = table[index[i]] as f32. Indices must lie inside (callers check ids).
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

// table [rows, width] f32 or bf16, index i32 [n], out f32 [n, width]; all on the device
void gather_rows_cuda(DType dtype, const void* table, const std::int32_t* index, std::int64_t n, std::int64_t width,
                      float* out, DeviceStream stream);

}  // namespace kvgrind::kernels
