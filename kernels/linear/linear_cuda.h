// y = x · Wᵀ on the device, through cuBLAS; a single bf16 row by a kernel of our own. fp32 in fp32 (no TF32); bf16
// operands with fp32 sums.
//   x [M, K], W [N, K] of `dtype` (f32 or bf16); y [M, N] of `out` (f32, or bf16 for bf16 operands)
// accumulate adds to y instead. Unlike the CPU product, a row's bits may depend on M: cuBLAS picks its kernel by shape.
// Roofline: 2·M·N·K flops at the tensor cores' rate, or N·K·size bytes of weights for small M.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {

int close_products(void*) noexcept;

// A cuBLAS handle and its workspace, bound to one stream. Products fit into a captured graph.
class DenseProducts {
 public:
  explicit DenseProducts(DeviceStream stream);
  void multiply(DType dtype, const void* x, const void* w, std::int64_t m, std::int64_t n, std::int64_t k, DType out,
                void* y, bool accumulate = false) const;

 private:
  DeviceStream stream_;
  Handle<void*, close_products, nullptr> handle_;
  DeviceBuffer workspace_;
};

}  // namespace kvgrind::kernels
