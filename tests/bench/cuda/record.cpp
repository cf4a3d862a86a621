// What recording costs a run at the 8B shape (random weights, bf16): a prompt and decode steps without and with
// recording, in turns within one program; K, V, decode Q, sampled prefill Q and LSE to a file on the local disk behind
// a spool in pinned host memory. Prints both sides, the time until the file is complete, and the ceilings of this
// machine: device to pinned host, and write(2) to the same disk.
//   usage: bench_record_cuda FOLDER [prompt] [steps] [chunk] [repeats] [spool GiB] [column sums 0|1] [share of prefill
//          queries] [maps,statistics,top64: computed on the device besides]
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/attention/attention_cuda.h"
#include "replay/record/device_recorder.h"
#include "sim/model/cuda_runtime.h"
#include "tests/bench/cuda/llama_8b.h"

namespace {

using namespace kvgrind;
namespace fs = std::filesystem;

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Plan {
  fs::path folder;
  std::int64_t prompt = 32768, steps = 256, chunk = 8192, repeats = 3, spool_gib = 6, column_sums = 0;
  double share = 0.1;
  std::string also = {};
};

struct Sides {
  std::vector<double> prefill, step;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One prompt and its decode steps; times go to `to`.
void run_once(const std::shared_ptr<const sim::CudaModel>& model, const Plan& plan,
              const std::vector<std::int32_t>& ids, const std::shared_ptr<sim::KvCache>& cache,
              replay::DeviceRecorder* tap, Sides& to) {
  const sim::Feed feed{.ids = std::span(ids).first(static_cast<std::size_t>(plan.prompt)),
                       .cache = cache.get(),
                       .logits_of = {plan.prompt - 1}};
  const double begin = now_ms();
  const Array<float, 2> last = sim::prefill(*model, feed, plan.chunk, {}, tap);
  if (tap) tap->last_logits({last.data(), static_cast<std::size_t>(last.size())}, false);
  to.prefill.push_back(now_ms() - begin);
  std::vector<double> steps;
  for (std::int64_t s = 0; s < plan.steps; ++s) {
    const double before = now_ms();
    const sim::Feed one{.first = plan.prompt + s,
                        .ids = std::span(ids).subspan(static_cast<std::size_t>(plan.prompt + s), 1),
                        .cache = cache.get(),
                        .decode = true,
                        .logits_of = {0}};
    const Array<float, 2> logits = std::move(sim::forward(*model, {&one, 1}, {}, tap)[0]);
    if (tap) tap->last_logits({logits.data(), static_cast<std::size_t>(logits.size())}, true);
    steps.push_back(now_ms() - before);
  }
  double sum = 0.0;
  for (std::size_t s = 2; s < steps.size(); ++s) sum += steps[s];  // the first two make the graph
  to.step.push_back(sum / static_cast<double>(steps.size() - 2));
}

// GB/s of write(2) in 1 MiB pieces, without and with fsync at the end.
std::pair<double, double> disk_rate(const fs::path& folder, std::int64_t bytes) {
  const fs::path path = folder / "disk.bin";
  std::vector<char> piece(1 << 20);
  for (std::size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<char>(i * 131 + i / 251);
  const int file = ::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (file < 0) return {0.0, 0.0};
  const double begin = now_ms();
  for (std::int64_t at = 0; at < bytes; at += static_cast<std::int64_t>(piece.size()))
    if (::write(file, piece.data(), piece.size()) < 0) break;
  const double written = now_ms() - begin;
  ::fsync(file);
  const double synced = now_ms() - begin;
  ::close(file);
  fs::remove(path);
  return {static_cast<double>(bytes) / written * 1e-6, static_cast<double>(bytes) / synced * 1e-6};
}

double host_copy_rate() {
  const std::int64_t bytes = 1ll << 30;
  const kernels::DeviceBuffer from(bytes, "bench");
  const kernels::PinnedBuffer to(bytes, "bench");
  const kernels::StreamHandle stream = kernels::make_stream();
  double best = 0.0;
  for (int i = 0; i < 4; ++i) {
    const double begin = now_ms();
    kernels::copy_to_host(to.as(), from.as(), bytes, stream.get());
    kernels::synchronize(stream.get());
    best = std::max(best, static_cast<double>(bytes) / (now_ms() - begin) * 1e-6);
  }
  return best;
}

void run(const Plan& plan) {
  fs::create_directories(plan.folder);
  fmt::print(
      "{}; {} prompt tokens in chunks of {}, {} decode steps, spool {} GiB, {:.0f} % of prefill queries, column sums "
      "{}, besides: {}\n",
      kernels::device_info(0).name, plan.prompt, plan.chunk, plan.steps, plan.spool_gib, 100 * plan.share,
      plan.column_sums ? "on" : "off", plan.also.empty() ? "nothing" : plan.also);
  const auto [written, synced] = disk_rate(plan.folder, 4ll << 30);
  fmt::print("ceilings: device to pinned host {:.1f} GB/s; write(2) {:.2f} GB/s, with fsync {:.2f} GB/s\n",
             host_copy_rate(), written, synced);
  const ModelConfig config = bench::llama_8b();
  const auto model = sim::random_cuda_model(config, {.device = 0, .arithmetic = DType::bf16}, 1);
  TokenSequence sequence;
  for (std::int64_t i = 0; i < plan.prompt + plan.steps; ++i)
    sequence.ids.push_back(static_cast<std::int32_t>((i * 7919 + 13) % config.card.vocab));
  const std::vector<std::int32_t> ids = sequence.ids;
  sequence.ids.resize(static_cast<std::size_t>(plan.prompt));
  sequence.segments = {{Role::context, 0, plan.prompt}};
  sequence.decode = plan.steps + 1;
  const std::shared_ptr<sim::KvCache> warm = sim::cuda_cache(model, plan.prompt + plan.steps);
  Sides ignored, plain, recorded;
  run_once(model, plan, ids, warm, nullptr, ignored);

  for (std::int64_t repeat = 0; repeat < plan.repeats; ++repeat) {
    for (const bool recording : {repeat % 2 == 0, repeat % 2 != 0}) {
      const std::shared_ptr<sim::KvCache> cache = sim::cuda_cache(model, plan.prompt + plan.steps);
      if (!recording) {
        run_once(model, plan, ids, cache, nullptr, plain);
        continue;
      }
      traces::RecordOptions options;
      options.queries = plan.share > 0.0 ? traces::QueryContent::sample : traces::QueryContent::none;
      options.query_sample_share = plan.share;
      options.output_projection = false;
      options.force = true;
      options.fsync = traces::FsyncMode::never;
      options.column_sums = plan.column_sums != 0;
      options = replay::device_record_options(options, replay::parse_stream_extras(plan.also));
      traces::Recorder::Plan file_plan;
      file_plan.card = sim::model_config(*model).card;
      file_plan.sequences = {sequence};
      const fs::path path = plan.folder / "run.kvt";
      traces::Recorder recorder(path, file_plan, options);
      replay::DeviceRecorder tap(recorder, file_plan.card, file_plan.sequences, options, 0, plan.spool_gib << 30);
      const double begin = now_ms();
      run_once(model, plan, ids, cache, &tap, recorded);
      const double ran = now_ms() - begin;
      tap.sequence_done(0, -1, sim::model_stream(*model));
      tap.finish();
      const double drained = now_ms() - begin;
      recorder.close();
      const double closed = now_ms() - begin;
      const auto counts = tap.counts();
      const auto bytes = static_cast<double>(fs::file_size(path));
      fmt::print(
          "  file of {:.2f} GB: run ended at {:.0f} ms, drained at {:.0f}, closed at {:.0f} = {:.2f} GB/s; {} waits, "
          "{:.0f} ms waited, spool peak {:.2f} GB\n",
          bytes * 1e-9, ran, drained, closed, bytes / closed * 1e-6, counts.waits, counts.waited_ms,
          static_cast<double>(counts.peak_bytes) * 1e-9);
      fs::remove(path);
    }
  }
  fmt::print("prefill: without {:.1f} ms, with {:.1f} ms: ×{:.4f}\n", median(plain.prefill), median(recorded.prefill),
             median(recorded.prefill) / median(plain.prefill));
  fmt::print("decode:  without {:.4f} ms a step, with {:.4f}: ×{:.4f}\n", median(plain.step), median(recorded.step),
             median(recorded.step) / median(plain.step));
  for (std::size_t i = 0; i < plain.prefill.size(); ++i)
    fmt::print("  repeat {}: prefill {:.1f} / {:.1f} ms, step {:.4f} / {:.4f} ms\n", i, plain.prefill[i],
               recorded.prefill[i], plain.step[i], recorded.step[i]);
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  if (argc < 2) {
    fmt::print(stderr,
               "usage: bench_record_cuda FOLDER [prompt] [steps] [chunk] [repeats] [spool GiB] [column sums] [share] "
               "[also]\n");
    return 2;
  }
  plan.folder = argv[1];
  std::int64_t* numbers[] = {&plan.prompt, &plan.steps, &plan.chunk, &plan.repeats, &plan.spool_gib, &plan.column_sums};
  for (int i = 2; i < std::min(argc, 8); ++i) *numbers[i - 2] = std::atoll(argv[i]);
  if (argc > 8) plan.share = std::atof(argv[8]);
  if (argc > 9) plan.also = argv[9];
  try {
    if (kernels::device_count() == 0) {
      fmt::print("no CUDA device: nothing to measure\n");
      return 7;
    }
    run(plan);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return exit_code(error.category());
  }
}
