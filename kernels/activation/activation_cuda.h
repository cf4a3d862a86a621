// out = silu(gate + bias) · (up + bias) on the device; gate_up [n, 2·F] holds both side by side (gate first), bias
// [2·F] f32 or null, out [n, F]; gate_up and out of one dtype, f32 or bf16; fp32 inside.
// Roofline: 3·n·F elements moved: memory bandwidth.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

void silu_mul_cuda(DType dtype, const void* gate_up, const float* bias, std::int64_t n, std::int64_t width, void* out,
                   DeviceStream stream);
// x [n, width] f32 += bias [width], in place.
void add_bias_cuda(float* x, const float* bias, std::int64_t n, std::int64_t width, DeviceStream stream);
// x [count] f32 += y [count] f32.
void add_cuda(float* x, const float* y, std::int64_t count, DeviceStream stream);

}  // namespace kvgrind::kernels
