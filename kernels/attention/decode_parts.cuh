// What both decode kernels share: which slots a split covers, and where its part of the result lies.
#pragma once
#include "kernels/attention/attention_cuda.h"
#include "kernels/device/scalar.cuh"

namespace kvgrind::kernels {

template <class T>
struct DecodeSlots {
  const T* k;
  const T* v;
  const std::int64_t* position = nullptr;
  const float* log_count = nullptr;
  std::int64_t n, query;

  __device__ DecodeSlots(const AttentionDecode& a, int sequence, int cache_head) : query(a.position[sequence]) {
    if (a.groups) {
      const DeviceGroup group = a.groups[sequence * a.shape.cache_heads + cache_head];
      k = static_cast<const T*>(group.k), v = static_cast<const T*>(group.v);
      position = group.position, log_count = group.log_count, n = group.n;
    } else {
      k = static_cast<const T*>(a.cache.k) + cache_head * a.cache.head_stride;
      v = static_cast<const T*>(a.cache.v) + cache_head * a.cache.head_stride;
      n = query + 1;
    }
  }
  __device__ bool sees(std::int64_t slot, std::int64_t window) const {
    const std::int64_t distance = query - (position ? position[slot] : slot);
    return distance >= 0 && (window == 0 || distance < window);
  }
};

struct DecodeRange {
  std::int64_t begin, end;
};
// Equal parts of the visible slots, rounded up to 64 so that warps fill up.
template <class T>
__device__ DecodeRange decode_range(const DecodeSlots<T>& slots, const AttentionDecode& a, int split) {
  const std::int64_t window = a.shape.window;
  const std::int64_t begin = !slots.position && window > 0 && slots.query + 1 > window ? slots.query + 1 - window : 0;
  const std::int64_t part = ((slots.n - begin + a.splits - 1) / a.splits + 63) / 64 * 64;
  const std::int64_t from = begin + split * part;
  return {from, from + part < slots.n ? from + part : slots.n};
}

// Workspace: o [B, Hq, splits, D], then (largest logit in base 2, sum) [B, Hq, splits, 2].
struct DecodePartials {
  float* data;
  std::int64_t heads, splits, dims, pairs_at;
  __device__ explicit DecodePartials(const AttentionDecode& a)
      : data(static_cast<float*>(a.workspace)),
        heads(a.shape.query_heads),
        splits(a.splits),
        dims(a.shape.head_dim),
        pairs_at(a.sequences * heads * splits * dims) {}
  __device__ float* o(std::int64_t sequence, std::int64_t head, std::int64_t split) const {
    return data + ((sequence * heads + head) * splits + split) * dims;
  }
  __device__ float* pair(std::int64_t sequence, std::int64_t head, std::int64_t split) const {
    return data + pairs_at + ((sequence * heads + head) * splits + split) * 2;
  }
  __device__ void set(std::int64_t sequence, std::int64_t head, std::int64_t split, float largest, float sum) const {
    float* at = pair(sequence, head, split);
    at[0] = largest, at[1] = sum;
  }
  __device__ void set_empty(std::int64_t sequence, std::int64_t head, std::int64_t split) const {
    set(sequence, head, split, -INFINITY, 0.0f);
  }
};

}  // namespace kvgrind::kernels
