#include "replay/record/device_recorder.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "traces/kvt/query_choice.h"

namespace kvgrind::replay {
namespace {

using kernels::DeviceBuffer;
using kernels::DeviceStream;
using kernels::EventHandle;

constexpr std::int64_t half_rows = 64;  // steps copied at once; the ring holds two halves
constexpr int slots = 4;                // layers whose small parts may wait for the copy stream

// Where the parts of a block lie, in bytes from its beginning.
struct BlockShape {
  std::int64_t k = 0, v = 0, q = 0, lse = 0, hidden_norm = 0, attn_in_norm = 0, size_bytes = 0;

  // `layers` of `rows` tokens with `queries` kept queries, and `norms` columns of hidden norms.
  BlockShape(const ModelCard& card, std::int64_t layers, std::int64_t rows, std::int64_t queries, std::int64_t norms) {
    const std::int64_t element = kvgrind::size_bytes(card.dtype);
    const auto place = [this](std::int64_t bytes) {
      const std::int64_t at = size_bytes;
      size_bytes += (bytes + 255) / 256 * 256;
      return at;
    };
    k = place(layers * card.kv_heads * rows * card.head_dim * element);
    v = place(layers * card.kv_heads * rows * card.head_dim * element);
    q = place(layers * card.query_heads * queries * card.head_dim * element);
    lse = place(layers * card.query_heads * rows * 4);
    hidden_norm = place(norms * rows * 4);
    attn_in_norm = place(layers * rows * 4);
  }
};

template <class T>
const T* part(const std::byte* block, std::int64_t at) {
  return reinterpret_cast<const T*>(block + at);
}

}  // namespace

traces::RecordOptions device_record_options(traces::RecordOptions options) {
  options.pooled_maps = false;
  options.query_statistics = false;
  options.logits_top64 = false;
  return options;
}

struct DeviceRecorder::State {
  traces::Recorder& recorder;
  ModelCard card;
  std::vector<TokenSequence> sequences;
  traces::RecordOptions options;
  kernels::CaptureSpool spool;

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

  // Decode: the ring's two halves, and the steps that are in it but not yet copied.
  DeviceBuffer ring_q, ring_lse, ring_hidden, ring_attn_in;
  std::array<EventHandle, 2> half_ready, half_free;
  std::array<bool, 2> half_used{};
  std::int64_t ring_row = 0, pending_first = 0, pending_sequence = -1;
  std::vector<std::int32_t> pending_ids;
  const sim::KvCache* pending_cache = nullptr;

  // Writer thread only: queries of a prefill layer at the rows of their pass.
  std::vector<std::byte> spread_q;

  State(traces::Recorder& to, const ModelCard& c, std::vector<TokenSequence> s, const traces::RecordOptions& o,
        int device, std::int64_t spool_bytes)
      : recorder(to), card(c), sequences(std::move(s)), options(o), spool(device, spool_bytes) {
    const std::int64_t rows = 2 * half_rows, element = size_bytes(card.dtype);
    const auto make = [](std::int64_t bytes) { return DeviceBuffer(bytes, "the recording's ring"); };
    ring_q = make(rows * card.layers * card.query_heads * card.head_dim * element);
    ring_lse = make(rows * card.layers * card.query_heads * 4);
    ring_hidden = make(rows * (card.layers + 1) * 4);
    ring_attn_in = make(rows * card.layers * 4);
    for (int h = 0; h < 2; ++h) half_ready[h] = kernels::make_event(), half_free[h] = kernels::make_event();
    for (Slot& one : slot) one.ready = kernels::make_event(), one.free = kernels::make_event();
  }

  void start_sums(const TapPass& pass);
  void add_sums(const sim::DeviceLayer& layer, DeviceStream stream);
  void queue_sums(std::int64_t sequence, DeviceStream stream);
  Slot& take_slot(std::int64_t bytes, DeviceStream stream);
  void queue_pass(const TapPass& pass);
  void flush_steps(DeviceStream stream);
  void show_layer(const std::byte* block, const BlockShape& shape, std::int64_t l, std::int64_t rows,
                  const std::vector<std::int32_t>& kept);
  void show_steps(const std::byte* block, const BlockShape& shape, std::int64_t rows);
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

// The beginning of a pass, for the writer thread.
void DeviceRecorder::State::queue_pass(const TapPass& pass) {
  spool.reserve(0);
  spool.submit([this, pass, ids = std::vector<std::int32_t>(pass.ids.begin(), pass.ids.end())] {
    TapPass own = pass;
    own.ids = ids;
    recorder.begin(own);
  });
}

DeviceRecorder::DeviceRecorder(traces::Recorder& recorder, const ModelCard& card, std::vector<TokenSequence> sequences,
                               const traces::RecordOptions& options, int device, std::int64_t spool_bytes)
    : state_(std::make_unique<State>(recorder, card, std::move(sequences), options, device, spool_bytes)) {}

DeviceRecorder::~DeviceRecorder() = default;

void DeviceRecorder::begin(const TapPass& pass, DeviceStream stream) {
  State& s = *state_;
  s.flush_steps(stream);
  s.n = static_cast<std::int64_t>(pass.ids.size());
  const traces::QueryChoice choice(s.options, s.sequences[static_cast<std::size_t>(pass.sequence)], pass.sequence);
  s.chosen.clear();
  if (s.options.queries != traces::QueryContent::none)
    for (std::int64_t i = 0; i < s.n; ++i)
      if (choice.keeps(pass.first + i, pass.decode)) s.chosen.push_back(static_cast<std::int32_t>(i));
  const auto bytes = static_cast<std::int64_t>(s.chosen.size()) * 4;
  if (s.chosen_device.size_bytes() < bytes) {
    s.chosen_device = {};
    s.chosen_device = DeviceBuffer(bytes, "the recording's ring");
  }
  kernels::copy_to_device(s.chosen_device.as(), s.chosen.data(), bytes, stream);
  s.start_sums(pass);
  s.queue_pass(pass);
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

  std::byte* block = s.spool.reserve(shape.size_bytes);
  const DeviceStream copy = s.spool.copy_stream();
  kernels::wait_event(copy, slot.ready);
  kernels::copy_to_host(block + shape.q, staged, small, copy);
  kernels::record_event(slot.free, copy);
  for (const auto& [to, from] : {std::pair{shape.k, layer.k}, std::pair{shape.v, layer.v}})
    kernels::copy_rows_to_host(block + to, n * row, static_cast<const std::byte*>(from) + layer.first * row,
                               layer.head_stride * element, n * row, card.kv_heads, copy);
  s.spool.submit([&s, block, shape, l = layer.layer, n, kept = s.chosen] { s.show_layer(block, shape, l, n, kept); });
}

void DeviceRecorder::State::show_layer(const std::byte* block, const BlockShape& shape, std::int64_t l,
                                       std::int64_t rows, const std::vector<std::int32_t>& kept) {
  const std::int64_t dim = card.head_dim, width = card.query_heads * dim, row_bytes = width * size_bytes(card.dtype);
  if (spread_q.size() < static_cast<std::size_t>(rows * row_bytes))
    spread_q.resize(static_cast<std::size_t>(rows * row_bytes));
  for (std::size_t i = 0; i < kept.size(); ++i)
    std::copy_n(block + shape.q + static_cast<std::int64_t>(i) * row_bytes, row_bytes,
                spread_q.data() + kept[i] * row_bytes);
  TapLayer tap;
  tap.layer = l;
  tap.rows_q = {card.dtype, spread_q.data(), width, dim};
  tap.rows_k = {card.dtype, block + shape.k, dim, rows * dim};
  tap.rows_v = {card.dtype, block + shape.v, dim, rows * dim};
  tap.lse = {part<float>(block, shape.lse), {rows, card.query_heads}};
  tap.input = {part<float>(block, shape.hidden_norm), {rows, 1}};
  tap.attn_in = {part<float>(block, shape.attn_in_norm), {rows, 1}};
  recorder.layer(tap);
}

void DeviceRecorder::end(const float* final_norm, DeviceStream stream) {
  State& s = *state_;
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
  return {s.options.queries == traces::QueryContent::none ? nullptr : s.ring_q.as(), s.ring_lse.as<float>(),
          s.ring_hidden.as<float>(), s.ring_attn_in.as<float>()};
}

std::int64_t DeviceRecorder::step(const TapPass& pass, DeviceStream stream) {
  State& s = *state_;
  if (pass.sequence != s.pending_sequence ||
      pass.first != s.pending_first + static_cast<std::int64_t>(s.pending_ids.size()))
    s.flush_steps(stream);
  if (s.pending_ids.empty()) {
    s.ring_row = (s.ring_row + half_rows - 1) / half_rows % 2 * half_rows;  // the half that follows
    s.pending_sequence = pass.sequence, s.pending_first = pass.first;
    const auto half = static_cast<std::size_t>(s.ring_row / half_rows);
    if (s.half_used[half]) kernels::wait_event(stream, s.half_free[half]);
  }
  s.pending_ids.push_back(pass.ids[0]);
  return s.ring_row++;
}

void DeviceRecorder::step_queued(const sim::KvCache& cache, DeviceStream stream) {
  State& s = *state_;
  s.pending_cache = &cache;
  if (static_cast<std::int64_t>(s.pending_ids.size()) == half_rows) s.flush_steps(stream);
}

// Copies the steps that wait in the current half, with their K and V, and hands them on as one pass.
void DeviceRecorder::State::flush_steps(DeviceStream stream) {
  if (pending_ids.empty()) return;
  const auto rows = static_cast<std::int64_t>(pending_ids.size());
  const std::int64_t element = size_bytes(card.dtype), row = card.head_dim * element;
  const std::int64_t first_row = ring_row - rows;
  const auto half = static_cast<std::size_t>(first_row / half_rows);
  const bool queries = options.queries != traces::QueryContent::none;
  const BlockShape shape(card, card.layers, rows, queries ? rows : 0, card.layers + 1);
  kernels::record_event(half_ready[half], stream);
  queue_pass({.sequence = pending_sequence, .first = pending_first, .ids = pending_ids, .decode = true});
  std::byte* block = spool.reserve(shape.size_bytes);
  const DeviceStream copy = spool.copy_stream();
  kernels::wait_event(copy, half_ready[half]);
  const auto copy_ring = [&](std::int64_t to, const DeviceBuffer& from, std::int64_t row_bytes) {
    kernels::copy_to_host(block + to, from.as<std::byte>() + first_row * row_bytes, rows * row_bytes, copy);
  };
  if (queries) copy_ring(shape.q, ring_q, card.layers * card.query_heads * row);
  copy_ring(shape.lse, ring_lse, card.layers * card.query_heads * 4);
  copy_ring(shape.hidden_norm, ring_hidden, (card.layers + 1) * 4);
  copy_ring(shape.attn_in_norm, ring_attn_in, card.layers * 4);
  kernels::record_event(half_free[half], copy);
  half_used[half] = true;
  // Layers and heads of a plain cache are one long list of groups: one strided copy takes them all.
  const kernels::PlainCache cache = sim::device_view(*pending_cache, 0);
  for (const auto& [to, from] : {std::pair{shape.k, cache.k}, std::pair{shape.v, cache.v}})
    kernels::copy_rows_to_host(block + to, rows * row, static_cast<const std::byte*>(from) + pending_first * row,
                               cache.head_stride * element, rows * row, card.layers * card.kv_heads, copy);
  spool.submit([this, block, shape, rows] { show_steps(block, shape, rows); });
  pending_ids.clear();
  ring_row = static_cast<std::int64_t>(half + 1) * half_rows;
}

void DeviceRecorder::State::show_steps(const std::byte* block, const BlockShape& shape, std::int64_t rows) {
  const std::int64_t L = card.layers, dim = card.head_dim, heads = card.query_heads, element = size_bytes(card.dtype);
  const bool queries = options.queries != traces::QueryContent::none;
  for (std::int64_t l = 0; l < L; ++l) {
    const std::int64_t group = l * card.kv_heads * rows * dim * element;
    TapLayer tap;
    tap.layer = l;
    if (queries) tap.rows_q = {card.dtype, block + shape.q + l * heads * dim * element, L * heads * dim, dim};
    tap.rows_k = {card.dtype, block + shape.k + group, dim, rows * dim};
    tap.rows_v = {card.dtype, block + shape.v + group, dim, rows * dim};
    tap.lse = {part<float>(block, shape.lse) + l * heads, {rows, heads}, {L * heads, 1}};
    tap.input = {part<float>(block, shape.hidden_norm) + l, {rows, 1}, {L + 1, 1}};
    tap.attn_in = {part<float>(block, shape.attn_in_norm) + l, {rows, 1}, {L, 1}};
    recorder.layer(tap);
  }
  TapEnd end;
  end.final_residual = {part<float>(block, shape.hidden_norm) + L, {rows, 1}, {L + 1, 1}};
  recorder.end(end);
}

void DeviceRecorder::sequence_done(std::int64_t sequence, std::int32_t next_token, DeviceStream stream) {
  State& s = *state_;
  s.flush_steps(stream);
  s.queue_sums(sequence, stream);
  // The cache may be freed now: its rows must have been copied.
  kernels::synchronize(s.spool.copy_stream());
  s.spool.reserve(0);
  s.spool.submit([&s, sequence, next_token] { s.recorder.sequence_done(sequence, next_token); });
}

void DeviceRecorder::finish() { state_->spool.drain(); }

kernels::CaptureSpool::Counts DeviceRecorder::counts() const { return state_->spool.counts(); }

}  // namespace kvgrind::replay
