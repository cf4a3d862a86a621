#include "kernels/activation/activation_cuda.h"
#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void silu_mul_kernel(const T* gate_up, const float* bias, std::int64_t n, std::int64_t width, T* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= n * width) return;
  const std::int64_t row = i / width, column = i % width;
  float gate = to_float(gate_up[2 * row * width + column]), up = to_float(gate_up[(2 * row + 1) * width + column]);
  if (bias) gate += bias[column], up += bias[width + column];
  out[i] = from_float<T>(gate / (1.0f + expf(-gate)) * up);
}

__global__ void add_bias_kernel(float* x, const float* bias, std::int64_t n, std::int64_t width) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < n * width) x[i] += bias[i % width];
}

__global__ void add_kernel(float* x, const float* y, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) x[i] += y[i];
}

unsigned blocks(std::int64_t count) { return static_cast<unsigned>((count + threads - 1) / threads); }

}  // namespace

void silu_mul_cuda(DType dtype, const void* gate_up, const float* bias, std::int64_t n, std::int64_t width, void* out,
                   DeviceStream stream) {
  if (n == 0) return;
  if (dtype == DType::bf16)
    silu_mul_kernel<<<blocks(n * width), threads, 0, stream>>>(static_cast<const bf16*>(gate_up), bias, n, width,
                                                               static_cast<bf16*>(out));
  else
    silu_mul_kernel<<<blocks(n * width), threads, 0, stream>>>(static_cast<const float*>(gate_up), bias, n, width,
                                                               static_cast<float*>(out));
  check_launch("the gated activation");
}

void add_bias_cuda(float* x, const float* bias, std::int64_t n, std::int64_t width, DeviceStream stream) {
  if (n == 0) return;
  add_bias_kernel<<<blocks(n * width), threads, 0, stream>>>(x, bias, n, width);
  check_launch("adding a bias");
}

void add_cuda(float* x, const float* y, std::int64_t count, DeviceStream stream) {
  if (count == 0) return;
  add_kernel<<<blocks(count), threads, 0, stream>>>(x, y, count);
  check_launch("adding rows");
}

}  // namespace kvgrind::kernels
