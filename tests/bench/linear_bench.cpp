// Linear layers at the shapes of models of hidden size 192 and 384 and one 4096 × 4096, beside Eigen's fp32 product.
// Run with --benchmark_enable_random_interleaving=true: repetitions of all cases then alternate in short slices.
//   M N K      rows, outputs, inputs       threads  of the call (Eigen: one)
//   GFLOP/s    2·M·N·K / time              of_peak  share of the measured FMA rate of the threads used
//   weight_GB/s  weight bytes / time, for M = 1
#include <benchmark/benchmark.h>

#include <random>

#include "core/parallel.h"
#include "kernels/isa/isa.h"
#include "kernels/linear/linear.h"
#include "tests/bench/eigen_gemm.h"
#include "tests/bench/fma_peak.h"

namespace kvgrind::bench {
namespace {

std::vector<float> values(std::int64_t n) {
  std::mt19937_64 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> all(static_cast<std::size_t>(n));
  for (float& value : all) value = normal(rng);
  return all;
}

void report(benchmark::State& state, double weight_bytes, int threads) {
  const double flops = 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2));
  using Counter = benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] = Counter(flops * 1e-9 / (fma_peak_gflops() * threads), Counter::kIsIterationInvariantRate);
  if (state.range(0) == 1)
    state.counters["weight_GB/s"] = Counter(weight_bytes * 1e-9, Counter::kIsIterationInvariantRate);
}

void linear_bench(benchmark::State& state, DType dtype) {
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const int before = thread_count();
  set_thread_count(static_cast<int>(state.range(3)));
  const std::vector<float> w = values(n * k), x = values(m * k);
  std::vector<std::byte> stored(static_cast<std::size_t>(n * k * size_bytes(dtype)));
  from_f32(dtype, w.data(), n * k, stored.data());
  const Tensor tensor{.dtype = dtype, .shape = {n, k}, .data = stored.data()};
  const kernels::PackedLinear packed = kernels::pack_linear({{&tensor, nullptr}});
  std::vector<float> y(static_cast<std::size_t>(m * n));
  for (auto _ : state) {
    kernels::linear(packed, View<const float, 2>(x.data(), {m, k}), View<float, 2>(y.data(), {m, n}));
    benchmark::DoNotOptimize(y.data());
  }
  report(state, static_cast<double>(stored.size()), static_cast<int>(state.range(3)));
  state.SetLabel(std::string(kernels::isa_name(kernels::current_isa())));
  set_thread_count(before);
}

void eigen_bench(benchmark::State& state) {
  if (!eigen_runs_here()) return state.SkipWithError("Eigen's side is built for AVX-512");
  const std::int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const std::vector<float> w = values(n * k), x = values(m * k);
  std::vector<float> y(static_cast<std::size_t>(m * n));
  for (auto _ : state) {
    eigen_gemm(x.data(), w.data(), y.data(), m, n, k);
    benchmark::DoNotOptimize(y.data());
  }
  report(state, static_cast<double>(n * k * 4), 1);
}

// One thread is timed by its own processor time, two by the clock on the wall.
void shapes(benchmark::internal::Benchmark* bench, int threads) {
  bench->ArgNames({"M", "N", "K", "threads"})->Repetitions(7)->ReportAggregatesOnly()->MinTime(0.02);
  if (threads > 1) bench->UseRealTime();
  const std::int64_t sizes[][2] = {{320, 192}, {1024, 192}, {192, 512}, {576, 384}, {2048, 384}, {4096, 4096}};
  for (const auto& size : sizes)
    for (const std::int64_t m : {1, 8, 64, 512}) bench->Args({m, size[0], size[1], threads});
}

BENCHMARK_CAPTURE(linear_bench, bf16, DType::bf16)->Apply([](auto* bench) { shapes(bench, 1); });
BENCHMARK_CAPTURE(linear_bench, bf16, DType::bf16)->Apply([](auto* bench) { shapes(bench, 2); });
BENCHMARK_CAPTURE(linear_bench, f32, DType::f32)->Apply([](auto* bench) { shapes(bench, 1); });
BENCHMARK(eigen_bench)->Apply([](auto* bench) { shapes(bench, 1); });

}  // namespace
}  // namespace kvgrind::bench
