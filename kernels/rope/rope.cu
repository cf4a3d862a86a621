#include <cassert>

#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/rope/rope_cuda.h"

namespace kvgrind::kernels {
namespace {

__global__ void table_kernel(const RopeTable a) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.n * a.half) return;
  const std::int64_t first = a.first_device ? *a.first_device : a.first;
  const float angle = static_cast<float>(first + i / a.half) * a.inv_freq[i % a.half];
  float s, c;
  sincosf(angle, &s, &c);
  a.table[2 * i] = c * a.factor;
  a.table[2 * i + 1] = s * a.factor;
}

constexpr int warps = 8, max_dims = 256;

// One warp a row and head; heads run q, k, v.
template <class T>
__global__ void __launch_bounds__(warps * 32) write_kernel(const RopeWrite a) {
  __shared__ float shared[warps][max_dims];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dims = static_cast<int>(a.head_dim);
  const std::int64_t heads = a.query_heads + 2 * a.kv_heads;
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * warps + warp;
  if (item >= a.n * heads) return;
  const std::int64_t row = item / heads;
  const int head = static_cast<int>(item % heads);
  const bool is_q = head < a.query_heads, is_v = head >= a.query_heads + a.kv_heads;
  float* x = shared[warp];
  const T* in = static_cast<const T*>(a.qkv) + item * dims;
  float squares = 0.0f;
  for (int d = lane; d < dims; d += 32) {
    x[d] = to_float(in[d]) + (a.bias ? a.bias[head * dims + d] : 0.0f);
    squares = fmaf(x[d], x[d], squares);
  }
  const float* norm = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
  if (norm) {
    const float factor = rsqrtf(warp_sum(squares) / static_cast<float>(dims) + a.eps);
    for (int d = lane; d < dims; d += 32) x[d] = x[d] * factor * norm[d];
  }
  __syncwarp();

  T* out;
  if (is_q) {
    out = static_cast<T*>(a.q) + (row * a.query_heads + head) * dims;
    if (a.q_pre) {
      T* pre = static_cast<T*>(a.q_pre) + (row * a.query_heads + head) * dims;
      for (int d = lane; d < dims; d += 32) pre[d] = from_float<T>(x[d]);
    }
  } else {
    const std::int64_t slot = (a.first_device ? *a.first_device : a.first) + row;
    const int kv_head = head - static_cast<int>(is_v ? a.query_heads + a.kv_heads : a.query_heads);
    out = static_cast<T*>(is_v ? a.v : a.k) + slot * a.row_stride + kv_head * a.head_stride;
  }
  T* trace = nullptr;
  if (is_q && a.q_trace && a.trace_row[row] >= 0)
    trace = static_cast<T*>(a.q_trace) + a.trace_row[row] * a.trace_stride + head * dims;

  const int half = static_cast<int>(a.half);
  const float* table = a.table + row * 2 * half;
  for (int d = lane; d < dims; d += 32) {
    float y = x[d];
    if (!is_v && d < 2 * half) {
      const int m = d < half ? d : d - half;
      const float c = table[2 * m], s = table[2 * m + 1];
      y = d < half ? x[d] * c - x[d + half] * s : x[d] * c + x[d - half] * s;
    }
    out[d] = from_float<T>(y);
    if (trace) trace[d] = from_float<T>(y);
  }
}

}  // namespace

void rope_table_cuda(const RopeTable& a, DeviceStream stream) {
  if (a.n == 0 || a.half == 0) return;
  table_kernel<<<static_cast<unsigned>((a.n * a.half + 255) / 256), 256, 0, stream>>>(a);
  check_launch("rotary angles");
}

void rope_write_cuda(const RopeWrite& a, DeviceStream stream) {
  assert(a.head_dim <= max_dims && 2 * a.half <= a.head_dim);
  if (a.n == 0) return;
  const std::int64_t items = a.n * (a.query_heads + 2 * a.kv_heads);
  const auto blocks = static_cast<unsigned>((items + warps - 1) / warps);
  if (a.dtype == DType::bf16)
    write_kernel<bf16><<<blocks, warps * 32, 0, stream>>>(a);
  else
    write_kernel<float><<<blocks, warps * 32, 0, stream>>>(a);
  check_launch("rotating q and k");
}

}  // namespace kvgrind::kernels
