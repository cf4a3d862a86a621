// One head of attention: causal prefill of T tokens in 64-query blocks, a few queries against many keys as replay asks
// for them (with and without the matrix of probabilities), and decode.
//   GFLOP/s  4·D per visible pair / time        of_peak  share of the measured FMA rate of one core
#include <benchmark/benchmark.h>

#include <numeric>
#include <random>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/isa/isa.h"
#include "tests/bench/fma_peak.h"

namespace kvgrind::bench {
namespace {

// Queries are the last n_q of n_k positions.
void attention_bench(benchmark::State& state, bool with_probabilities, bool with_output) {
  const std::int64_t n_q = state.range(0), n_k = state.range(1), dims = state.range(2);
  std::mt19937_64 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<std::size_t>(n_q * dims)), k(static_cast<std::size_t>(n_k * dims)), v(k.size()),
      out(q.size()), lse(static_cast<std::size_t>(n_q));
  for (std::vector<float>* all : {&q, &k, &v})
    for (float& value : *all) value = normal(rng);
  std::vector<std::int64_t> position(static_cast<std::size_t>(n_k));
  std::iota(position.begin(), position.end(), 0);
  kernels::AttentionParams params;
  params.q = View<const float, 2>(q.data(), {n_q, dims});
  params.k = View<const float, 2>(k.data(), {n_k, dims});
  params.v = View<const float, 2>(v.data(), {n_k, dims});
  params.k_position = position;
  params.q_position = std::span(position).subspan(static_cast<std::size_t>(n_k - n_q));
  params.scale = 1.0f / std::sqrt(static_cast<float>(dims));
  if (with_output) params.out = View<float, 2>(out.data(), {n_q, dims});
  params.lse = lse.data();
  if (with_probabilities)
    params.probabilities = [](std::int64_t, View<const float, 2> p) { benchmark::DoNotOptimize(p.data()); };
  for (auto _ : state) {
    kernels::attention(params);
    benchmark::DoNotOptimize(lse.data());
  }
  double pairs = 0.0;
  for (std::int64_t i = 0; i < n_q; ++i) pairs += static_cast<double>(n_k - n_q + i + 1);
  const double flops = pairs * static_cast<double>(dims) * (with_output ? 4.0 : 2.0);
  using Counter = benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] = Counter(flops * 1e-9 / fma_peak_gflops(), Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(kernels::isa_name(kernels::current_isa())));
}

void common(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"n_q", "n_k", "D"})->Repetitions(7)->ReportAggregatesOnly()->MinTime(0.02);
}

BENCHMARK_CAPTURE(attention_bench, prefill, false, true)->Apply([](auto* bench) {
  common(bench);
  for (const std::int64_t tokens : {1024, 4096})
    for (const std::int64_t dims : {32, 64, 128}) bench->Args({tokens, tokens, dims});
});
BENCHMARK_CAPTURE(attention_bench, few_queries, false, true)->Apply([](auto* bench) {
  common(bench);
  for (const std::int64_t queries : {8, 16, 64})
    for (const std::int64_t keys : {64, 512, 4096}) bench->Args({queries, keys, 64});
});
BENCHMARK_CAPTURE(attention_bench, few_queries_probabilities_only, true, false)->Apply([](auto* bench) {
  common(bench);
  for (const std::int64_t queries : {8, 16, 64})
    for (const std::int64_t keys : {512, 4096}) bench->Args({queries, keys, 64});
});
BENCHMARK_CAPTURE(attention_bench, decode, false, true)->Apply([](auto* bench) {
  common(bench);
  for (const std::int64_t keys : {512, 4096})
    for (const std::int64_t dims : {32, 64, 128}) bench->Args({1, keys, dims});
});

}  // namespace
}  // namespace kvgrind::bench
