// Ordering scores, and keeping the first fifth of them, beside the comparison sorts of the references.
#include <benchmark/benchmark.h>

#include <random>

#include "kernels/rank/rank.h"

namespace kvgrind::bench {
namespace {

template <class Function>
void rank_bench(benchmark::State& state, Function function) {
  std::mt19937_64 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> score(static_cast<std::size_t>(state.range(0)));
  for (float& value : score) value = normal(rng);
  for (auto _ : state) benchmark::DoNotOptimize(function(score));
  state.counters["ns/score"] =
      benchmark::Counter(static_cast<double>(state.range(0)) * 1e-9,
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

using Scores = const std::vector<float>&;
std::int64_t fifth(Scores score) { return static_cast<std::int64_t>(score.size()) / 5; }

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"n"})->Repetitions(7)->ReportAggregatesOnly()->MinTime(0.02);
  for (const std::int64_t n : {256, 4096, 32768, 1000000}) bench->Args({n});
}

BENCHMARK_CAPTURE(rank_bench, rank_order, [](Scores score) { return kernels::rank_order(score); })->Apply(sizes);
BENCHMARK_CAPTURE(rank_bench, rank_order_ref, [](Scores score) {
  return kernels::rank_order_ref(score);
})->Apply(sizes);
BENCHMARK_CAPTURE(rank_bench, top_k, [](Scores score) { return kernels::top_k(score, fifth(score)); })->Apply(sizes);
BENCHMARK_CAPTURE(rank_bench, top_k_ref, [](Scores score) {
  return kernels::top_k_ref(score, fifth(score));
})->Apply(sizes);

}  // namespace
}  // namespace kvgrind::bench
