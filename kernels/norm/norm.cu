#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/norm/norm_cuda.h"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads) norm_kernel(const RmsNorm a) {
  __shared__ float shared[32];
  const auto row = [&a](std::int64_t stride) {
    return a.norm_row ? *a.norm_row * stride : static_cast<std::int64_t>(blockIdx.x);
  };
  const float* x = a.x + blockIdx.x * a.width;
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < a.width; i += threads) squares = fmaf(x[i], x[i], squares);
  squares = block_sum(squares, shared);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(a.width) + a.eps);
  T* out = static_cast<T*>(a.out) + blockIdx.x * a.width;
  float out_squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < a.width; i += threads) {
    const float y = x[i] * factor * a.w[i];
    out[i] = from_float<T>(y);
    const float written = to_float(out[i]);
    out_squares = fmaf(written, written, out_squares);
  }
  if (a.out_norm) {
    out_squares = block_sum(out_squares, shared);
    if (threadIdx.x == 0) a.out_norm[row(a.out_norm_stride)] = sqrtf(out_squares);
  }
  if (a.x_norm && threadIdx.x == 0) a.x_norm[row(a.x_norm_stride)] = sqrtf(squares);
}

}  // namespace

void rms_norm_cuda(const RmsNorm& a, DeviceStream stream) {
  if (a.n == 0) return;
  if (a.dtype == DType::bf16)
    norm_kernel<bf16><<<static_cast<unsigned>(a.n), threads, 0, stream>>>(a);
  else
    norm_kernel<float><<<static_cast<unsigned>(a.n), threads, 0, stream>>>(a);
  check_launch("RMS norm");
}

}  // namespace kvgrind::kernels
