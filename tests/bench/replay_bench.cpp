// Configurations a second of the open loop's plain loop, at the shape of the built-in example: 6 layers, 6 query and 2
// cache heads of 32, 1024 context tokens, 46 measured queries. One thread.
#include <benchmark/benchmark.h>

#include "core/parallel.h"
#include "replay/open_loop/open_loop.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::bench {
namespace {

const replay::SequenceData& example_data() {
  static const replay::SequenceData data(tests::synthetic_run({.layers = 6,
                                                               .query_heads = 6,
                                                               .kv_heads = 2,
                                                               .head_dim = 32,
                                                               .hidden = 192,
                                                               .context = 1024,
                                                               .question = 28,
                                                               .answer = 18,
                                                               .contexts = 1,
                                                               .questions = 1}),
                                         1);
  return data;
}

void replay_bench(benchmark::State& state, const char* policy) {
  set_thread_count(1);
  const replay::SequenceData& data = example_data();
  const replay::OpenJob job{.policy = sim::bind_policy(policy),
                            .amount = {.value = static_cast<double>(state.range(0)) / 100}};
  for (auto _ : state) benchmark::DoNotOptimize(replay::run_open(data, job));
  state.counters["configurations/s"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
}

void budgets(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"kept_percent"})->Unit(benchmark::kMillisecond)->MinTime(0.1);
  for (const std::int64_t percent : {5, 20, 50}) bench->Args({percent});
}

BENCHMARK_CAPTURE(replay_bench, knorm, "knorm")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, snapkv, "snapkv")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, observed, "observed")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, expected_attention, "expected_attention")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, tova, "tova")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, h2o_online, "h2o(variant=online)")->Apply(budgets);
BENCHMARK_CAPTURE(replay_bench, oracle_step, "oracle_step")->Apply(budgets);

}  // namespace
}  // namespace kvgrind::bench
