// The product of a single bf16 row with bf16 weights (kernels/linear/linear_cuda.h chooses it).
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

bool one_row_fits(std::int64_t k);
// x [k], w [n, k] bf16; y [n] of `out`, f32 or bf16
void multiply_one_row(const void* x, const void* w, std::int64_t n, std::int64_t k, DType out, void* y, bool accumulate,
                      DeviceStream stream);

}  // namespace kvgrind::kernels
