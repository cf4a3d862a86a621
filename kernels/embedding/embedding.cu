#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/embedding/embedding_cuda.h"

namespace kvgrind::kernels {
namespace {

template <class T>
__global__ void gather_kernel(const T* table, const std::int32_t* index, std::int64_t width, float* out) {
  const T* row = table + static_cast<std::int64_t>(index[blockIdx.x]) * width;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) out[blockIdx.x * width + i] = to_float(row[i]);
}

}  // namespace

void gather_rows_cuda(DType dtype, const void* table, const std::int32_t* index, std::int64_t n, std::int64_t width,
                      float* out, DeviceStream stream) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(n);
  if (dtype == DType::bf16)
    gather_kernel<<<blocks, 256, 0, stream>>>(static_cast<const bf16*>(table), index, width, out);
  else
    gather_kernel<<<blocks, 256, 0, stream>>>(static_cast<const float*>(table), index, width, out);
  check_launch("gathering rows");
}

}  // namespace kvgrind::kernels
