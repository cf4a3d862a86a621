#include "kernels/convert/convert_cuda.h"
#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 256;
unsigned blocks(std::int64_t n) { return static_cast<unsigned>((n + threads - 1) / threads); }

template <class From, class To>
__global__ void convert_kernel(const From* in, std::int64_t n, To* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < n) out[i] = from_float<To>(to_float(in[i]));
}

__device__ std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

template <class T>
__global__ void normal_kernel(T* out, std::int64_t n, float deviation, std::uint64_t seed) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= n) return;
  const std::uint64_t bits = mix(mix(seed) ^ static_cast<std::uint64_t>(i));
  const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;
  const float angle = static_cast<float>((bits >> 8) & 0xffffff) * 0x1p-23f;  // in half turns
  out[i] = from_float<T>(deviation * sqrtf(-2.0f * logf(u)) * cospif(angle));
}

}  // namespace

void to_f32_cuda(DType dtype, const void* in, std::int64_t n, float* out, DeviceStream stream) {
  if (n == 0) return;
  if (dtype == DType::f32) return copy_on_device(out, in, n * 4, stream);
  convert_kernel<<<blocks(n), threads, 0, stream>>>(static_cast<const bf16*>(in), n, out);
  check_launch("converting to f32");
}

void from_f32_cuda(DType dtype, const float* in, std::int64_t n, void* out, DeviceStream stream) {
  if (n == 0) return;
  if (dtype == DType::f32) return copy_on_device(out, in, n * 4, stream);
  convert_kernel<<<blocks(n), threads, 0, stream>>>(in, n, static_cast<bf16*>(out));
  check_launch("converting to bf16");
}

void fill_normal_cuda(DType dtype, void* out, std::int64_t n, float deviation, std::uint64_t seed,
                      DeviceStream stream) {
  if (n == 0) return;
  if (dtype == DType::bf16)
    normal_kernel<<<blocks(n), threads, 0, stream>>>(static_cast<bf16*>(out), n, deviation, seed);
  else
    normal_kernel<<<blocks(n), threads, 0, stream>>>(static_cast<float*>(out), n, deviation, seed);
  check_launch("filling with random values");
}

}  // namespace kvgrind::kernels
