#include "replay/record/device_recorder.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "replay/record/device_summaries.h"
#include "replay/record/step_queue.h"
#include "traces/kvt/query_choice.h"

namespace kvgrind::replay {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceStream;
using kernels::EventHandle;

constexpr int slots = 4;  // layers whose small parts may wait for the copy stream

template <class T>
const T* part(const std::byte* block, std::int64_t at) {
  return reinterpret_cast<const T*>(block + at);
}

}  // namespace

traces::RecordOptions device_record_options(traces::RecordOptions options, const StreamExtras& extras) {
  options.pooled_maps = options.pooled_maps && extras.maps;
  options.query_statistics = options.query_statistics && extras.statistics;
  options.logits_top64 = options.logits_top64 && extras.top64;
  return options;
}

struct DeviceRecorder::State final : StepSource {
  traces::Recorder& recorder;
  ModelCard card;
  std::vector<TokenSequence> sequences;
  traces::RecordOptions options;
  Pressure pressure;

  // Prefill: the pass under way, and the device-side slots for what the run will overwrite.
  std::int64_t n = 0, next_slot = 0;
  std::vector<std::int32_t> chosen;  // rows of the pass whose queries are kept
  DeviceBuffer chosen_device;
  struct Slot {
    DeviceBuffer bytes;
    EventHandle ready, free;
    bool used = false;
  };
  std::array<Slot, slots> slot;

  // Column sums of the sequence under way, per part: [L, Hq, sum_keys] each; the last part: queries of no segment.
  std::vector<Segment> parts;
  std::vector<DeviceBuffer> sums;
  std::int64_t sum_sequence = -1, sum_keys = 0;
  EventHandle sums_ready = kernels::make_event();

  // Decode: the ring, and the cache that its steps were appended to.
  DeviceBuffer ring_q, ring_lse, ring_hidden, ring_attn_in;
  std::array<EventHandle, 2> half_ready, half_free;
  std::array<bool, 2> half_used{};
  const sim::KvCache* cache = nullptr;
  DeviceStream run_stream = nullptr;

  BlockReader reader;
  DeviceSummaries summaries;
  StepQueue steps;
  kernels::CaptureSpool spool;  // dies before what its thread and copies use

  State(traces::Recorder& to, const ModelCard& c, std::vector<TokenSequence> s, const traces::RecordOptions& o,
        int device, std::int64_t spool_bytes, OnFull on_full, std::function<void(std::int64_t)> before_block)
      : recorder(to),
        card(c),
        sequences(std::move(s)),
        options(o),
        pressure(on_full),
        reader(to, card),
        summaries(to, card, sequences, {o.pooled_maps, o.query_statistics, o.logits_top64}, spool),
        steps(*this, spool, pressure, reader, to, card, wants_queries(), o.logits_top64),
        spool(device, spool_bytes, std::move(before_block)) {
    const std::int64_t rows = StepQueue::ring_rows, element = size_bytes(card.dtype);
    const auto make = [](std::int64_t bytes) { return DeviceBuffer(bytes, "the recording's ring"); };
    ring_q = make(rows * card.layers * card.query_heads * card.head_dim * element);
    ring_lse = make(rows * card.layers * card.query_heads * 4);
    ring_hidden = make(rows * (card.layers + 1) * 4);
    ring_attn_in = make(rows * card.layers * 4);
    for (int h = 0; h < 2; ++h) half_ready[h] = kernels::make_event(), half_free[h] = kernels::make_event();
    for (Slot& one : slot) one.ready = kernels::make_event(), one.free = kernels::make_event();
  }

  bool wants_queries() const { return options.queries != traces::QueryContent::none; }
  void choose_queries(const TapPass& pass, DeviceStream stream);
  void start_sums(const TapPass& pass);
  void add_sums(const sim::DeviceLayer& layer, DeviceStream stream);
  void queue_sums(std::int64_t sequence, DeviceStream stream);
  Slot& take_slot(std::int64_t bytes, DeviceStream stream);

  // StepSource
  void fill(int half) override {
    if (half_used[static_cast<std::size_t>(half)])
      kernels::wait_event(run_stream, half_free[static_cast<std::size_t>(half)]);
  }
  void ready(int half) override {
    kernels::record_event(half_ready[static_cast<std::size_t>(half)], run_stream);
    kernels::wait_event(spool.copy_stream(), half_ready[static_cast<std::size_t>(half)]);
  }
  void release(int half) override {
    kernels::record_event(half_free[static_cast<std::size_t>(half)], spool.copy_stream());
    half_used[static_cast<std::size_t>(half)] = true;
  }
  void leaving(std::int64_t row, std::int64_t first, std::int64_t count) override {
    const std::int64_t width = card.layers * card.query_heads;
    summaries.steps(ring_q.as<std::byte>() + row * width * card.head_dim * size_bytes(card.dtype),
                    ring_lse.as<float>() + row * width, first, count, *cache, run_stream);
  }
  void copy_ring(std::byte* to, const DeviceBuffer& from, std::int64_t row_bytes, std::int64_t row, std::int64_t every,
                 std::int64_t count) {
    kernels::copy_rows_to_host(to, row_bytes, from.as<std::byte>() + row * row_bytes, every * row_bytes, row_bytes,
                               count, spool.copy_stream());
  }
  void copy_queries(std::byte* to, std::int64_t row, std::int64_t every, std::int64_t count) override {
    copy_ring(to, ring_q, card.layers * card.query_heads * card.head_dim * size_bytes(card.dtype), row, every, count);
  }
  void copy_lse(std::byte* to, std::int64_t row, std::int64_t count) override {
    copy_ring(to, ring_lse, card.layers * card.query_heads * 4, row, 1, count);
  }
  void copy_norms(std::byte* hidden, std::byte* attn_in, std::int64_t row, std::int64_t count) override {
    copy_ring(hidden, ring_hidden, (card.layers + 1) * 4, row, 1, count);
    copy_ring(attn_in, ring_attn_in, card.layers * 4, row, 1, count);
  }
  void copy_cache(std::byte* k, std::byte* v, std::int64_t first, std::int64_t count) override {
    const std::int64_t element = size_bytes(card.dtype), row = card.head_dim * element;
    // Layers and heads of a plain cache are one long list of groups: one strided copy takes them all.
    const kernels::PlainCache view = sim::device_view(*cache, 0);
    for (const auto& [to, from] : {std::pair{k, view.k}, std::pair{v, view.v}})
      kernels::copy_rows_to_host(to, count * row, static_cast<const std::byte*>(from) + first * row,
                                 view.head_stride * element, count * row, card.layers * card.kv_heads,
                                 spool.copy_stream());
  }
};

// The next slot; the run's stream waits until its last contents have been copied.
DeviceRecorder::State::Slot& DeviceRecorder::State::take_slot(std::int64_t bytes, DeviceStream stream) {
  Slot& out = slot[static_cast<std::size_t>(next_slot++ % slots)];
  if (out.bytes.size_bytes() < bytes) {
    out.bytes = {};  // freeing waits for the device
    out.bytes = DeviceBuffer(bytes, "the recording's ring");
  } else if (out.used) {
    kernels::wait_event(stream, out.free);
  }
  out.used = true;
  return out;
}

void DeviceRecorder::State::start_sums(const TapPass& pass) {
  if (!options.column_sums || pass.sequence == sum_sequence) return;
  const TokenSequence& one = sequences[static_cast<std::size_t>(pass.sequence)];
  parts = traces::recorded_segments_of(one);
  sum_sequence = pass.sequence;
  sum_keys = one.fork_at + static_cast<std::int64_t>(one.ids.size());
  sums.clear();
  sums.resize(parts.size() + 1);
}

// The queries of this layer, cut where parts begin and end.
void DeviceRecorder::State::add_sums(const sim::DeviceLayer& layer, DeviceStream stream) {
  const std::int64_t end = layer.first + layer.n, width = card.query_heads * card.head_dim * size_bytes(card.dtype);
  for (std::int64_t at = layer.first; at < end;) {
    std::size_t which = parts.size();
    std::int64_t cut = end;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (at >= parts[i].begin && at < parts[i].end) which = i, cut = std::min(cut, parts[i].end);
      if (at < parts[i].begin) cut = std::min(cut, parts[i].begin);
    }
    DeviceBuffer& to = sums[which];
    if (!to) {
      to = DeviceBuffer(card.layers * card.query_heads * sum_keys * 4, "column sums");
      kernels::fill_bytes(to.as(), 0, to.size_bytes(), stream);
    }
    kernels::ColumnSums a;
    a.shape = layer.shape;
    a.q = static_cast<const std::byte*>(layer.q) + (at - layer.first) * width;
    a.n = cut - at, a.first = at, a.cache = layer.cache();
    a.lse = layer.lse + (at - layer.first) * card.query_heads;
    a.sum = to.as<float>() + layer.layer * card.query_heads * sum_keys, a.sum_stride = sum_keys;
    kernels::column_sums_cuda(a, stream);
    at = cut;
  }
}

void DeviceRecorder::State::queue_sums(std::int64_t sequence, DeviceStream stream) {
  if (sequence != sum_sequence) return;
  kernels::record_event(sums_ready, stream);
  kernels::wait_event(spool.copy_stream(), sums_ready);
  for (std::size_t which = 0; which < sums.size(); ++which) {
    if (!sums[which]) continue;
    const std::int64_t count = card.query_heads * sum_keys;
    for (std::int64_t l = 0; l < card.layers; ++l) {
      std::byte* block = spool.reserve(count * 4);
      kernels::copy_to_host(block, sums[which].as<float>() + l * count, count * 4, spool.copy_stream());
      const std::int64_t segment = which == parts.size() ? -1 : static_cast<std::int64_t>(which);
      spool.submit([this, block, sequence, l, segment, keys = sum_keys] {
        recorder.column_sums(sequence, l, segment, {part<float>(block, 0), {card.query_heads, keys}});
      });
    }
  }
}

// Which rows keep their queries, and where the copy kernels find the list. What a spool that fills leaves out is
// decided for the pass as a whole.
void DeviceRecorder::State::choose_queries(const TapPass& pass, DeviceStream stream) {
  n = static_cast<std::int64_t>(pass.ids.size());
  const traces::QueryChoice choice(options, sequences[static_cast<std::size_t>(pass.sequence)], pass.sequence);
  chosen.clear();
  std::vector<std::int64_t> left_out;
  if (wants_queries()) {
    for (std::int64_t i = 0; i < n; ++i)
      if (choice.keeps(pass.first + i, pass.decode)) chosen.push_back(static_cast<std::int32_t>(i));
    const auto wanted = static_cast<std::int64_t>(chosen.size());
    const std::int64_t every = pressure.every(spool);
    const auto leave = [&](auto&& gone) {
      for (const std::int32_t i : chosen)
        if (gone(i)) left_out.push_back(i);
      std::erase_if(chosen, gone);
    };
    // A pass larger than the spool goes through it bit by bit.
    const std::int64_t bytes = card.layers * BlockShape(card, 1, n, wanted, 1).size_bytes;
    if (wanted > 0 && pressure.gives_up(spool, std::min(bytes, spool.capacity_bytes() / 2))) {
      leave([](std::int32_t) { return true; });
      pressure.dropped_prompt(wanted);
    } else if (every != 1) {
      leave([&](std::int32_t i) { return every == 0 || (pass.first + i) % every != 0; });
      pressure.left_out(static_cast<std::int64_t>(left_out.size()));
    }
  }
  const auto list_bytes = static_cast<std::int64_t>(chosen.size()) * 4;
  if (chosen_device.size_bytes() < list_bytes) {
    chosen_device = {};
    chosen_device = DeviceBuffer(list_bytes, "the recording's ring");
  }
  kernels::copy_to_device(chosen_device.as(), chosen.data(), list_bytes, stream);
  spool.reserve(0);
  spool.submit(
      [this, pass, ids = std::vector<std::int32_t>(pass.ids.begin(), pass.ids.end()), left_out = std::move(left_out)] {
        TapPass own = pass;
        own.ids = ids;
        recorder.leave_out_queries(left_out);
        recorder.begin(own);
      });
}

DeviceRecorder::DeviceRecorder(traces::Recorder& recorder, const ModelCard& card, std::vector<TokenSequence> sequences,
                               const traces::RecordOptions& options, int device, std::int64_t spool_bytes,
                               OnFull on_full, std::function<void(std::int64_t)> before_block)
    : state_(std::make_unique<State>(recorder, card, std::move(sequences), options, device, spool_bytes, on_full,
                                     std::move(before_block))) {}

DeviceRecorder::~DeviceRecorder() = default;

void DeviceRecorder::begin(const TapPass& pass, DeviceStream stream) {
  State& s = *state_;
  s.run_stream = stream;
  s.steps.flush();
  s.start_sums(pass);
  s.summaries.begin(pass, stream);
  s.choose_queries(pass, stream);
}

void DeviceRecorder::layer(const sim::DeviceLayer& layer, DeviceStream stream) {
  State& s = *state_;
  const ModelCard& card = s.card;
  const std::int64_t element = size_bytes(card.dtype), row = card.head_dim * element, n = layer.n;
  const auto queries = static_cast<std::int64_t>(s.chosen.size());
  const BlockShape shape(card, 1, n, queries, 1);
  // What the run overwrites next goes into a slot, on the run's own stream; the cache's rows stay where they are.
  const std::int64_t small = shape.size_bytes - shape.q;
  State::Slot& slot = s.take_slot(small, stream);
  std::byte* staged = slot.bytes.as<std::byte>();
  kernels::gather_rows_on_device(staged, layer.q, card.query_heads * row, s.chosen_device.as<std::int32_t>(), queries,
                                 stream);
  kernels::copy_on_device(staged + shape.lse - shape.q, layer.lse, n * card.query_heads * 4, stream);
  kernels::copy_on_device(staged + shape.hidden_norm - shape.q, layer.hidden_norm, n * 4, stream);
  kernels::copy_on_device(staged + shape.attn_in_norm - shape.q, layer.attn_in_norm, n * 4, stream);
  kernels::record_event(slot.ready, stream);

  if (s.options.column_sums) s.add_sums(layer, stream);
  s.summaries.layer(layer, stream);

  std::byte* block = s.spool.reserve(shape.size_bytes);
  const DeviceStream copy = s.spool.copy_stream();
  kernels::wait_event(copy, slot.ready);
  kernels::copy_to_host(block + shape.q, staged, small, copy);
  kernels::record_event(slot.free, copy);
  for (const auto& [to, from] : {std::pair{shape.k, layer.k}, std::pair{shape.v, layer.v}})
    kernels::copy_rows_to_host(block + to, n * row, static_cast<const std::byte*>(from) + layer.first * row,
                               layer.head_stride * element, n * row, card.kv_heads, copy);
  s.spool.submit([&s, block, shape, l = layer.layer, kept = s.chosen] { s.reader.layer(block, shape, l, kept); });
}

bool DeviceRecorder::wants_all_logits() const { return state_->options.logits_top64; }

void DeviceRecorder::logits(const float* logits, std::int64_t first, std::int64_t rows, DeviceStream stream) {
  state_->summaries.logits(logits, first, rows, stream);
}

void DeviceRecorder::last_logits(std::span<const float> logits, bool decode) {
  State& s = *state_;
  if (!s.options.logits_top64) return;
  if (decode) return s.steps.logits(logits);
  const auto bytes = static_cast<std::int64_t>(logits.size_bytes());
  std::byte* block = s.spool.reserve(bytes);
  std::copy(logits.begin(), logits.end(), reinterpret_cast<float*>(block));
  s.spool.submit([&s, block, n = logits.size()] { s.recorder.last_logits({part<float>(block, 0), n}); });
}

void DeviceRecorder::end(const float* final_norm, DeviceStream stream) {
  State& s = *state_;
  s.summaries.end(stream);
  const std::int64_t bytes = s.n * 4;
  State::Slot& slot = s.take_slot(bytes, stream);
  kernels::copy_on_device(slot.bytes.as(), final_norm, bytes, stream);
  kernels::record_event(slot.ready, stream);
  std::byte* block = s.spool.reserve(bytes);
  const DeviceStream copy = s.spool.copy_stream();
  kernels::wait_event(copy, slot.ready);
  kernels::copy_to_host(block, slot.bytes.as(), bytes, copy);
  kernels::record_event(slot.free, copy);
  s.spool.submit([&s, block, n = s.n] {
    TapEnd tap;
    tap.final_residual = {part<float>(block, 0), {n, 1}};
    s.recorder.end(tap);
  });
}

sim::StepRing DeviceRecorder::ring() const {
  const State& s = *state_;
  const bool queries = s.wants_queries() || s.options.pooled_maps || s.options.query_statistics;
  return {queries ? s.ring_q.as() : nullptr, s.ring_lse.as<float>(), s.ring_hidden.as<float>(),
          s.ring_attn_in.as<float>()};
}

std::int64_t DeviceRecorder::step(const TapPass& pass, DeviceStream stream) {
  state_->run_stream = stream;
  return state_->steps.step(pass);
}

void DeviceRecorder::step_queued(const sim::KvCache& cache, DeviceStream stream) {
  state_->run_stream = stream;
  state_->cache = &cache;
  state_->steps.queued();
}

void DeviceRecorder::flush(DeviceStream stream) {
  state_->run_stream = stream;
  state_->steps.flush();
  kernels::synchronize(state_->spool.copy_stream());
}

void DeviceRecorder::sequence_done(std::int64_t sequence, std::int32_t next_token, DeviceStream stream) {
  State& s = *state_;
  s.run_stream = stream;
  s.steps.flush();
  s.queue_sums(sequence, stream);
  s.summaries.sequence_done(sequence, stream);
  // The cache may be freed now: its rows must have been copied.
  kernels::synchronize(s.spool.copy_stream());
  s.spool.reserve(0);
  s.spool.submit([&s, sequence, next_token] { s.recorder.sequence_done(sequence, next_token); });
}

std::vector<std::string> DeviceRecorder::finish() {
  state_->spool.drain();
  std::vector<std::string> remarks = state_->pressure.remarks();
  for (const std::string& line : remarks) state_->recorder.remark(line);
  return remarks;
}

kernels::CaptureSpool::Counts DeviceRecorder::counts() const { return state_->spool.counts(); }

}  // namespace kvgrind::replay
