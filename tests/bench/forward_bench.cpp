// Prefill of a real model against the machine's own GEMM rate, both measured in one run, in alternating slices.
//   share = (flops of the forward pass / its time) / (flops of one large `linear` / its time)
// The flops are those of the products really done: dense products of every layer, attention over visible pairs, and
// the head on the rows asked for.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>

#include "core/parallel.h"
#include "kernels/linear/linear.h"
#include "sim/model/full_cache.h"
#include "sim/model/runtime.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind {
namespace {

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// y = x · Wᵀ with M = N = K = 1024.
class Gemm {
 public:
  Gemm() : x_({side, side}), y_({side, side}), weights_(static_cast<std::size_t>(side * side)) {
    std::mt19937 rng(1);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    for (float& w : weights_) w = uniform(rng);
    for (std::int64_t i = 0; i < x_.size(); ++i) x_.data()[i] = uniform(rng);
    const Tensor tensor{.shape = {side, side}, .data = reinterpret_cast<const std::byte*>(weights_.data())};
    packed_ = kernels::pack_linear({{.weight = &tensor}});
  }
  double flops_per_second() {
    const double flops = 2.0 * side * side * side;
    return flops / seconds_of([&] { kernels::linear(packed_, x_.view(), y_.view()); });
  }

 private:
  static constexpr std::int64_t side = 1024;
  Array<float, 2> x_, y_;
  std::vector<float> weights_;
  kernels::PackedLinear packed_;
};

// Flops of a prefill of n tokens whose last row alone needs logits: in the last layer only that row goes on after k, v.
double prefill_flops(const ModelCard& card, std::int64_t n) {
  const auto tokens = static_cast<double>(n), hidden = static_cast<double>(card.hidden);
  const double q = static_cast<double>(card.query_heads * card.head_dim);
  const double k = static_cast<double>(card.kv_heads * card.head_dim);
  const double qkv = 2.0 * hidden * (q + 2.0 * k), rest = 2.0 * (q * hidden + 3.0 * hidden * card.intermediate);
  const auto full_layers = static_cast<double>(card.layers - 1);
  const double pairs = tokens * (tokens + 1.0) / 2.0;
  return tokens * (card.layers * qkv + full_layers * rest) + full_layers * pairs * 4.0 * q + rest + 4.0 * q * tokens +
         2.0 * hidden * static_cast<double>(card.vocab);
}

// KVGRIND_BENCH_MODEL names another model folder.
struct BenchModel {
  ModelConfig config;
  std::shared_ptr<const sim::Model> model;
  std::vector<std::int32_t> ids;

  explicit BenchModel(std::int64_t tokens) {
    const char* given = std::getenv("KVGRIND_BENCH_MODEL");
    const std::filesystem::path folder =
        given ? std::filesystem::path(given) : std::filesystem::path(KVGRIND_SOURCE_DIR) / "traces/examples/tiny-3m";
    config = traces::read_model_config(folder);
    model = sim::build_model(config, traces::read_weights(folder, false));
    std::mt19937 rng(2);
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<std::int32_t>(rng() % static_cast<unsigned>(config.card.vocab)));
  }
  std::unique_ptr<sim::KvCache> prefilled() const {
    auto cache = sim::full_cache(config.card);
    const auto last = static_cast<std::int64_t>(ids.size()) - 1;
    benchmark::DoNotOptimize(sim::prefill(*model, {.ids = ids, .cache = cache.get(), .logits_of = {last}}));
    return cache;
  }
};

void prefill_share(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const BenchModel bench(n);
  const double flops = prefill_flops(bench.config.card, n);
  set_thread_count(static_cast<int>(state.range(1)));
  Gemm gemm;
  bench.prefilled();
  gemm.flops_per_second();
  std::vector<double> seconds, rates, shares;
  for (auto _ : state) {
    // A slice of each, so that both see the same weather.
    const double rate = gemm.flops_per_second(), time = seconds_of([&] { bench.prefilled(); });
    const double both = median({rate, gemm.flops_per_second(), gemm.flops_per_second()});
    state.SetIterationTime(time);
    seconds.push_back(time);
    rates.push_back(both);
    shares.push_back(flops / time / both);
  }
  const double time = median(seconds);
  state.counters["tokens_per_s"] = static_cast<double>(n) / time;
  state.counters["forward_GFLOPs"] = flops / time * 1e-9;
  state.counters["gemm_GFLOPs"] = median(rates) * 1e-9;
  state.counters["share"] = median(shares);
  state.counters["share_least"] = *std::min_element(shares.begin(), shares.end());
  state.counters["share_most"] = *std::max_element(shares.begin(), shares.end());
  set_thread_count(0);
}
BENCHMARK(prefill_share)
    ->ArgNames({"tokens", "threads"})
    ->ArgsProduct({{512, 2048, 4096}, {1, 2}})
    ->Iterations(9)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// One step of `batch` sequences that share nothing, each over its own context.
void decode_step(benchmark::State& state) {
  const std::int64_t context = state.range(0);
  const BenchModel bench(context);
  set_thread_count(static_cast<int>(state.range(2)));
  std::vector<std::unique_ptr<sim::KvCache>> caches;
  for (std::int64_t b = 0; b < state.range(1); ++b) caches.push_back(bench.prefilled());
  std::int64_t position = context;
  for (auto _ : state) {
    std::vector<sim::Feed> feeds;
    for (const auto& cache : caches)
      feeds.push_back({.first = position,
                       .ids = std::span(bench.ids).first(1),
                       .cache = cache.get(),
                       .decode = true,
                       .logits_of = {0}});
    benchmark::DoNotOptimize(sim::forward(*bench.model, feeds));
    ++position;
  }
  state.counters["tokens_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * state.range(1)), benchmark::Counter::kIsRate);
  set_thread_count(0);
}
BENCHMARK(decode_step)
    ->ArgNames({"context", "batch", "threads"})
    ->ArgsProduct({{1024}, {1, 16}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace kvgrind
