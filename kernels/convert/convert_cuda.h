// Element types on the device, and random values for timing.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

// n elements of f32 or bf16 to f32, and back (round to nearest even).
void to_f32_cuda(DType dtype, const void* in, std::int64_t n, float* out, DeviceStream stream);
void from_f32_cuda(DType dtype, const float* in, std::int64_t n, void* out, DeviceStream stream);
// out[i] ~ normal(0, deviation), a function of (seed, i) alone; f32 or bf16.
void fill_normal_cuda(DType dtype, void* out, std::int64_t n, float deviation, std::uint64_t seed, DeviceStream stream);

}  // namespace kvgrind::kernels
