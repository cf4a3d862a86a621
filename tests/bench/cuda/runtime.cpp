// The CUDA runtime at the 8B shape in bf16: a prefill and decode steps, with nothing looking on. Prints medians and the
// floors: flops of the dense products and attention at the rate a large product reaches here is left to
// bench_attention; decode against the bytes of the weights at the copy rate.
//   usage: bench_runtime_cuda [prompt tokens] [decode steps] [chunk]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "core/error.h"
#include "sim/model/cuda_runtime.h"
#include "tests/bench/cuda/llama_8b.h"

namespace {

using namespace kvgrind;

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run(std::int64_t prompt, std::int64_t steps, std::int64_t chunk) {
  const ModelConfig config = bench::llama_8b();
  const double start = now_ms();
  const auto model = sim::random_cuda_model(config, {.device = 0, .arithmetic = DType::bf16}, 1);
  fmt::print("{}: weights made in {:.0f} ms; {:.1f} GiB free\n", kernels::device_info(0).name, now_ms() - start,
             static_cast<double>(kernels::device_info(0).free_bytes) / (1 << 30));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(prompt + steps));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>((i * 7919 + 13) % 128256);
  const double weights = 2.0 * (32.0 * (4096.0 * 4096 * 2 + 4096.0 * 1024 * 2 + 3.0 * 4096 * 14336) + 4096.0 * 128256);
  const double flops = static_cast<double>(prompt) * weights +
                       32.0 * 4 * 128 * 32 * 0.5 * static_cast<double>(prompt) * static_cast<double>(prompt);
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto cache = sim::cuda_cache(model, prompt + steps);
    const sim::Feed feed{
        .ids = std::span(ids).first(static_cast<std::size_t>(prompt)), .cache = cache.get(), .logits_of = {prompt - 1}};
    const double begin = now_ms();
    sim::prefill(*model, feed, chunk);
    const double prefill_ms = now_ms() - begin;
    std::vector<double> step_ms;
    for (std::int64_t s = 0; s < steps; ++s) {
      const double before = now_ms();
      const sim::Feed one{.first = prompt + s,
                          .ids = std::span(ids).subspan(static_cast<std::size_t>(prompt + s), 1),
                          .cache = cache.get(),
                          .decode = true,
                          .logits_of = {0}};
      sim::forward(*model, {&one, 1});
      step_ms.push_back(now_ms() - before);
    }
    std::sort(step_ms.begin() + 2, step_ms.end());
    const double median = step_ms[step_ms.size() / 2];
    fmt::print(
        "prefill {} tokens (chunk {}): {:.0f} ms, {:.0f} TFLOP/s; decode: median {:.3f} ms a step = {:.2f} TB/s of "
        "weights and cache\n",
        prompt, chunk, prefill_ms, flops / prefill_ms * 1e-9, median,
        (weights + static_cast<double>(prompt) * 131072) / median * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (kvgrind::kernels::device_count() == 0) {
      fmt::print("no CUDA device: nothing to measure\n");
      return 7;
    }
    run(argc > 1 ? std::atoll(argv[1]) : 32768, argc > 2 ? std::atoll(argv[2]) : 64,
        argc > 3 ? std::atoll(argv[3]) : 8192);
  } catch (const kvgrind::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return kvgrind::exit_code(error.category());
  }
}
