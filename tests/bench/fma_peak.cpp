#include "tests/bench/fma_peak.h"

#include <immintrin.h>

#include <algorithm>
#include <ctime>
#include <map>

#include "kernels/isa/isa.h"

namespace kvgrind::bench {
namespace {

constexpr int chains = 12;  // independent sums: more than latency · units needs
constexpr long rounds = 2000000;

float baseline_chains() {
  __m128 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm_set1_ps(static_cast<float>(c));
  const __m128 factor = _mm_set1_ps(0.999f), term = _mm_set1_ps(1e-3f);
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm_add_ps(_mm_mul_ps(sum[c], factor), term);
  for (int c = 1; c < chains; ++c) sum[0] = _mm_add_ps(sum[0], sum[c]);
  return _mm_cvtss_f32(sum[0]);
}

__attribute__((target("avx2,fma"))) float avx2_chains() {
  __m256 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(1e-3f);
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], factor, term);
  for (int c = 1; c < chains; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
  return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) float avx512_chains() {
  __m512 sum[chains];
  for (int c = 0; c < chains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(1e-3f);
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], factor, term);
  for (int c = 1; c < chains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  return _mm512_cvtss_f32(sum[0]);
}

// Of this thread alone: what else runs on the machine does not count.
double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double measure(float (*run)(), int lanes) {
  double best = 0.0;
  volatile float keep = 0.0f;
  for (int slice = 0; slice < 9; ++slice) {
    const double start = thread_seconds();
    keep = run();
    const double took = thread_seconds() - start;
    best = std::max(best, 2.0 * lanes * chains * static_cast<double>(rounds) / took * 1e-9);
  }
  (void)keep;
  return best;
}

}  // namespace

double fma_peak_gflops() {
  static std::map<kernels::Isa, double> peaks;
  const kernels::Isa isa = kernels::current_isa();
  double& peak = peaks[isa];
  if (peak == 0.0)
    peak = isa == kernels::Isa::avx512 ? measure(avx512_chains, 16)
           : isa == kernels::Isa::avx2 ? measure(avx2_chains, 8)
                                       : measure(baseline_chains, 4);
  return peak;
}

}  // namespace kvgrind::bench
