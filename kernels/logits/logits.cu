// One block a row: maximum and sum, then the 64th largest by a radix walk over the ordered bits (11 + 11 + 10), then
// the winners gathered and put in order by counting.
#include <cassert>

#include "kernels/device/check_cuda.h"
#include "kernels/device/scalar.cuh"
#include "kernels/logits/logits_cuda.h"

namespace kvgrind::kernels {
namespace {

constexpr int threads = 512, bins = 2048, keep = static_cast<int>(top_logits);

// Unsigned integers in the order of the floats; NaN below everything.
__device__ std::uint32_t ordered(float x) {
  if (x != x) return 0;
  const std::uint32_t bits = __float_as_uint(x + 0.0f);  // −0 ranks as 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__global__ void __launch_bounds__(threads) summary_kernel(const LogitSummary a) {
  __shared__ float shared[32];
  __shared__ int histogram[bins], found, wanted, warp_ties[threads / 32];
  __shared__ std::uint32_t prefix;
  __shared__ std::uint32_t top_key[keep];
  __shared__ std::int32_t top_index[keep];
  const float* x = a.logits + blockIdx.x * a.vocab;
  const int n = static_cast<int>(a.vocab), warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  float largest = -INFINITY;
  for (int i = threadIdx.x; i < n; i += threads) largest = fmaxf(largest, x[i]);
  largest = warp_max(largest);
  if (lane == 0) shared[warp] = largest;
  __syncthreads();
  for (int w = 0; w < threads / 32; ++w) largest = fmaxf(largest, shared[w]);
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += threads) sum += expf(x[i] - largest);
  sum = block_sum(sum, shared);
  const float lse = largest + logf(sum);
  if (a.nll && threadIdx.x == 0) {
    const std::int32_t target = a.target ? a.target[blockIdx.x] : -1;
    a.nll[blockIdx.x] = target < 0 ? NAN : lse - x[target];
  }
  if (!a.top_id && !a.top_logp) return;

  // The key of the 64th largest, its leading bits first; `wanted` counts what is still to come from the current bin.
  if (threadIdx.x == 0) prefix = 0, wanted = keep, found = 0;
  for (int step = 0; step < 3; ++step) {
    const int shift = step == 0 ? 21 : step == 1 ? 10 : 0, width = step == 2 ? 10 : 11;
    for (int i = threadIdx.x; i < bins; i += threads) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += threads) {
      const std::uint32_t key = ordered(x[i]);
      if (step == 0 || key >> (shift + width) == prefix) atomicAdd(&histogram[(key >> shift) & ((1u << width) - 1)], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = (1 << width) - 1;
      while (histogram[bin] < wanted) wanted -= histogram[bin--];
      prefix = prefix << width | static_cast<std::uint32_t>(bin);
    }
    __syncthreads();
  }
  const std::uint32_t threshold = prefix;
  for (int i = threadIdx.x; i < n; i += threads)
    if (ordered(x[i]) > threshold) {
      const int at = atomicAdd(&found, 1);
      top_key[at] = ordered(x[i]);
      top_index[at] = i;
    }
  __syncthreads();
  // Of those equal to the threshold the lowest indices win: in index order, a stripe of `threads` at a time.
  for (int start = 0; start < n && found < keep; start += threads) {
    const int i = start + threadIdx.x;
    const bool tie = i < n && ordered(x[i]) == threshold;
    const unsigned votes = __ballot_sync(0xffffffffu, tie);
    if (lane == 0) warp_ties[warp] = __popc(votes);
    __syncthreads();
    int before = found, all = 0;
    for (int w = 0; w < threads / 32; ++w) {
      if (w < warp) before += warp_ties[w];
      all += warp_ties[w];
    }
    before += __popc(votes & ((1u << lane) - 1));
    if (tie && before < keep) top_key[before] = threshold, top_index[before] = i;
    __syncthreads();
    if (threadIdx.x == 0) found = min(found + all, keep);
    __syncthreads();
  }
  if (threadIdx.x < keep) {
    const std::uint32_t key = top_key[threadIdx.x];
    const std::int32_t index = top_index[threadIdx.x];
    int rank = 0;
    for (int j = 0; j < keep; ++j) rank += top_key[j] > key || (top_key[j] == key && top_index[j] < index);
    if (a.top_id) a.top_id[blockIdx.x * keep + rank] = index;
    if (a.top_logp) a.top_logp[blockIdx.x * keep + rank] = x[index] - lse;
  }
}

}  // namespace

void summarise_logits_cuda(const LogitSummary& a, DeviceStream stream) {
  assert(a.vocab >= top_logits);
  if (a.rows == 0) return;
  summary_kernel<<<static_cast<unsigned>(a.rows), threads, 0, stream>>>(a);
  check_launch("summarising logits");
}

}  // namespace kvgrind::kernels
