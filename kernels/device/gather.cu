#include "kernels/device/check_cuda.h"
#include "kernels/device/device.h"

namespace kvgrind::kernels {
namespace {

__global__ void gather_kernel(std::uint32_t* to, const std::uint32_t* from, std::int64_t words,
                              const std::int32_t* index) {
  const std::uint32_t* row = from + index[blockIdx.x] * words;
  for (std::int64_t i = threadIdx.x; i < words; i += blockDim.x) to[blockIdx.x * words + i] = row[i];
}

}  // namespace

void gather_rows_on_device(void* to, const void* from, std::int64_t row_bytes, const std::int32_t* index,
                           std::int64_t n, DeviceStream stream) {
  if (n == 0) return;
  gather_kernel<<<static_cast<unsigned>(n), 256, 0, stream>>>(
      static_cast<std::uint32_t*>(to), static_cast<const std::uint32_t*>(from), row_bytes / 4, index);
  check_launch("gathering rows");
}

}  // namespace kvgrind::kernels
