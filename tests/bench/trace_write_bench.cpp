// Rate of writing a trace at chunks of 1 MiB beside plain write(2) of the same bytes, in short alternating slices into
// the page cache. Three ways: write(2); the format alone (chunks, flushes, commit rows); the whole recorder (rows of
// the run's dtype copied into chunks, checksums, commits). KVGRIND_BENCH_DIR says where; the temporary folder without
// it.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "core/dtype.h"
#include "traces/kvt/file_writer.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::bench {
namespace {

constexpr std::int64_t layers = 2, kv_heads = 4, query_heads = 4, dim = 128, chunk = 4096, chunks = 10;
constexpr std::int64_t tokens = chunk * chunks, mebibyte = 1 << 20;
constexpr std::int64_t groups = layers * (2 * kv_heads + query_heads);  // chunks of 1 MiB a chunk of tokens

ModelCard bench_card() {
  ModelCard card;
  card.family = "llama";
  card.name = "bench";
  card.layers = layers;
  card.query_heads = query_heads;
  card.kv_heads = kv_heads;
  card.head_dim = dim;
  card.dtype = DType::bf16;
  card.scale = 1.0f;
  card.layer.resize(layers);
  return card;
}

std::filesystem::path folder() {
  const char* wanted = std::getenv("KVGRIND_BENCH_DIR");
  return wanted ? std::filesystem::path(wanted) : std::filesystem::temp_directory_path();
}

std::vector<std::uint16_t> noise() {
  std::mt19937_64 rng(1);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> out(static_cast<std::size_t>(chunk * kv_heads * dim));
  for (std::uint16_t& x : out) x = to_bf16(normal(rng));
  return out;
}

void plain(const std::filesystem::path& path, const std::vector<std::uint16_t>& data) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const char* bytes = reinterpret_cast<const char*>(data.data());
  for (std::int64_t i = 0; i < chunks * groups; ++i)
    if (::write(file, bytes + i % kv_heads * mebibyte, mebibyte) != mebibyte) std::abort();
  ::close(file);
}

void format(const std::filesystem::path& path, const std::vector<std::uint16_t>& data) {
  traces::FileStart start;
  start.layout.card = bench_card();
  start.layout.content = {.queries = true,
                          .column_sums = false,
                          .query_statistics = false,
                          .pooled_maps = false,
                          .logits_top64 = false,
                          .output_projection = false,
                          .text = false};
  start.layout.announced_rows = start.layout.announced_queries = tokens;
  start.layout.chunk_rows = chunk;
  start.card = start.header = start.provenance = "{}";
  traces::FileWriter file(path, true, traces::FsyncMode::never, std::move(start));
  const char* bytes = reinterpret_cast<const char*>(data.data());
  for (std::int64_t c = 0; c < chunks; ++c) {
    for (std::int64_t l = 0; l < layers; ++l)
      for (const char* name : {"k", "v", "q"})
        for (std::int64_t h = 0; h < kv_heads; ++h)
          file.write_group(name, l, h, c * chunk, chunk, bytes + h * mebibyte);
    file.commit(traces::Stream::tok, traces::Row{});
  }
  file.publish({.state = traces::StatusCode::complete, .rows = tokens, .announced = tokens, .not_recorded = "[]"});
}

void recorder(const std::filesystem::path& path, const std::vector<std::uint16_t>& data) {
  traces::Recorder::Plan plan;
  plan.card = bench_card();
  plan.sequences.resize(1);
  plan.sequences[0].ids.resize(tokens);
  traces::RecordOptions options;
  options.column_sums = options.query_statistics = options.pooled_maps = options.logits_top64 = false;
  options.force = true;
  options.fsync = traces::FsyncMode::never;
  const std::vector<std::int32_t> ids(chunk);
  const std::vector<float> lse(chunk * query_heads);
  const TapRows rows{.dtype = DType::bf16, .data = data.data(), .row_stride = kv_heads * dim, .head_stride = dim};
  traces::Recorder out(path, std::move(plan), options);
  for (std::int64_t c = 0; c < chunks; ++c) {
    out.begin({.sequence = 0, .first = c * chunk, .ids = ids, .decode = false});
    for (std::int64_t l = 0; l < layers; ++l)
      out.layer({.layer = l,
                 .q = {},
                 .q_pre = {},
                 .k = {},
                 .v = {},
                 .lse = View<const float, 2>(lse.data(), {chunk, query_heads}),
                 .input = {},
                 .attn_in = {},
                 .attn_out = {},
                 .rows_q = rows,
                 .rows_k = rows,
                 .rows_v = rows});
    out.end({});
  }
  out.sequence_done(0);
  out.close();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void trace_write(benchmark::State& state) {
  const std::vector<std::uint16_t> data = noise();
  const std::filesystem::path path = folder() / ("kvgrind-bench-" + std::to_string(::getpid()));
  using Way = void (*)(const std::filesystem::path&, const std::vector<std::uint16_t>&);
  const Way ways[] = {plain, format, recorder};
  std::vector<double> rates[3], ratios[3];
  const double bytes = static_cast<double>(chunks * groups * mebibyte);
  for (auto _ : state) {
    double rate[3] = {};
    for (int way = 0; way < 3; ++way) {
      const auto begin = std::chrono::steady_clock::now();
      ways[way](path, data);
      rate[way] = bytes / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 1e9;
      std::filesystem::remove(path);
    }
    for (int way = 0; way < 3; ++way) {
      rates[way].push_back(rate[way]);
      ratios[way].push_back(rate[way] / rate[0]);
    }
  }
  state.counters["write2_GB/s"] = median(rates[0]);
  state.counters["format_GB/s"] = median(rates[1]);
  state.counters["recorder_GB/s"] = median(rates[2]);
  state.counters["format/write2"] = median(ratios[1]);
  state.counters["recorder/write2"] = median(ratios[2]);
}
BENCHMARK(trace_write)->Iterations(15)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kvgrind::bench
