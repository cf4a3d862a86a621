// RMS norm on the device, with the L2 norms a recorder wants on the way.
//   in   x [n, H] f32, w [H] f32        out  out [n, H] f32 or bf16 (fp32 inside, rounded once)
//   x_norm [n] = ‖x‖₂, out_norm [n] = ‖out‖₂ as written; each may be null
// Roofline: x read and out written once: memory bandwidth.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

struct RmsNorm {
  const float* x = nullptr;
  const float* w = nullptr;
  float eps = 0.0f;
  std::int64_t n = 0, width = 0;
  DType dtype = DType::f32;  // of out
  void* out = nullptr;
  float* x_norm = nullptr;
  float* out_norm = nullptr;
  // When not null, the norms of the only row go to entry *norm_row · …_norm_stride instead: a trace ring's row.
  const std::int64_t* norm_row = nullptr;
  std::int64_t x_norm_stride = 0, out_norm_stride = 0;
};
void rms_norm_cuda(const RmsNorm& params, DeviceStream stream);

}  // namespace kvgrind::kernels
