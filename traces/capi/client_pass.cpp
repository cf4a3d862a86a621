// One pass: which queries are sent, and the messages of its begin, layers and end.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "traces/capi/client.h"

namespace kvgrind::traces {
namespace {

using wire::aligned;
using wire::Kind;
using wire::QueryUse;

template <class Body>
constexpr std::int64_t body_end() {
  return aligned(static_cast<std::int64_t>(sizeof(wire::Header) + sizeof(Body)));
}

Error usage(std::string found, std::string expected) {
  return Error(Category::usage,
               {.doing = "recording a pass", .on = "", .found = std::move(found), .expected = std::move(expected)});
}

// Payload places of a layer of `rows` tokens and `queries` queries.
struct LayerShape {
  wire::Layer body;
  std::int64_t size_bytes = 0;
  LayerShape(const PlanShape& shape, std::int64_t rows, std::int64_t queries, bool hidden, bool attn_in) {
    const std::int64_t row = shape.head_dim * kvgrind::size_bytes(shape.dtype);
    size_bytes = body_end<wire::Layer>();
    const auto place = [this](std::int64_t bytes) {
      const std::int64_t at = size_bytes;
      size_bytes += aligned(bytes);
      return at;
    };
    body.k_at = place(shape.kv_heads * rows * row);
    body.v_at = place(shape.kv_heads * rows * row);
    body.q_at = place(shape.query_heads * queries * row);
    body.lse_at = place(shape.query_heads * rows * 4);
    if (hidden) body.hidden_norm_at = place(rows * 4);
    if (attn_in) body.attn_in_norm_at = place(rows * 4);
  }
};

std::int64_t end_bytes(const PlanShape& shape, std::int64_t rows, std::int64_t logit_rows, std::int64_t vocab,
                       std::int64_t element) {
  return body_end<wire::End>() + aligned(logit_rows * 8) + aligned(logit_rows * vocab * element) +
         aligned(rows * (shape.layers + 1) * 4) + aligned(rows * shape.layers * 4);
}

}  // namespace

std::int64_t Client::pass_bytes(std::int64_t rows, std::int64_t queries, std::int64_t logit_rows) const {
  const PlanShape& shape = plan_.shape;
  const std::int64_t vocab = vocab_bytes_ > 0 ? vocab_bytes_ / 4 : 0;
  return body_end<wire::Begin>() + aligned(rows * 8) + aligned(rows) + 4096 +
         shape.layers * LayerShape(shape, rows, queries, true, true).size_bytes +
         end_bytes(shape, rows, logit_rows, vocab, 4);
}

// Marks each row of the part and returns how many queries are sent.
std::int64_t Client::choose_queries(const kvg_part& part, bool decode, std::uint8_t* use) {
  const TokenSequence& sequence = plan_.sequences[static_cast<std::size_t>(part.sequence)];
  const QueryChoice choice(plan_.options, sequence, part.sequence);
  std::int64_t every = 1;  // of the queries to be kept; 0 = none
  if (pressure_ == KVG_SHRINK) {
    const std::int64_t ring = memory_.ring_bytes(), free = feeder_.free_bytes();
    every = free > ring / 2 ? 1 : free > ring / 4 ? 4 : 0;
  }
  std::int64_t sent = 0, shrunk = 0;
  for (std::int64_t i = 0; i < part.n; ++i) {
    const bool lost = part.keep_query != nullptr && part.keep_query[i] == 0;
    bool keep = !lost && choice.keeps(part.first + i, decode);
    if (lost) ++lost_;
    if (keep && (every == 0 || (part.first + i) % every != 0)) keep = false, ++shrunk;
    const QueryUse one = keep ? QueryUse::kept : plan_.statistics && !lost ? QueryUse::counted : QueryUse::not_sent;
    use[i] = static_cast<std::uint8_t>(one);
    sent += one == QueryUse::not_sent ? 0 : 1;
  }
  shrunk_ += shrunk;
  shrunk_passes_ += shrunk > 0 ? 1 : 0;
  return sent;
}

void Client::begin(const kvg_part* parts, std::int64_t n_parts, int id_bytes, bool decode, int device, void* stream) {
  check_open("a pass");
  if (in_pass_) throw usage("a pass inside another", "the end of that one first");
  if (parts == nullptr || n_parts < 1 || n_parts > 4096 || (id_bytes != 4 && id_bytes != 8))
    throw usage(fmt::format("{} parts, ids of {} bytes", n_parts, id_bytes), "1 to 4096 parts, ids of 4 or 8 bytes");
  std::int64_t rows = 0;
  for (std::int64_t p = 0; p < n_parts; ++p) {
    const kvg_part& part = parts[p];
    if (part.sequence < 0 || part.sequence >= static_cast<std::int64_t>(plan_.sequences.size()) || part.first < 0 ||
        part.n < 1 || part.n > (1 << 26) || part.ids == nullptr)
      throw usage(fmt::format("{} tokens of sequence {} from position {}", part.n, part.sequence, part.first),
                  "some, with ids, of a sequence that is announced or described");
    rows += part.n;
  }
  const std::int64_t all = pass_bytes(rows, rows, 0);
  if (pressure_ == KVG_DROP && all > feeder_.free_bytes() && all <= memory_.ring_bytes() / 2) {
    ++refused_;
    throw NoRoom{};
  }
  std::vector<std::uint8_t> use(static_cast<std::size_t>(rows));
  std::vector<wire::Part> chosen;
  std::vector<std::int32_t> sent;
  std::int64_t row = 0, queries = 0;
  for (std::int64_t p = 0; p < n_parts; ++p) {
    const kvg_part& part = parts[p];
    const std::int64_t count = choose_queries(part, decode, use.data() + row);
    chosen.push_back({.sequence = part.sequence, .first = part.first, .n = part.n, .queries = count});
    for (std::int64_t i = 0; i < part.n; ++i)
      if (use[static_cast<std::size_t>(row + i)] != 0) sent.push_back(static_cast<std::int32_t>(i));
    row += part.n, queries += count;
  }
  // Several sequences at once are held in the spool until their pass is whole, since the file takes one at a time.
  const std::int64_t needed = pass_bytes(rows, queries, 0);
  if (n_parts > 1 && needed > memory_.ring_bytes() - (memory_.ring_bytes() >> 3))
    throw usage(fmt::format("a pass of {} sequences, {} tokens in all, that takes {} MiB", n_parts, rows, needed >> 20),
                fmt::format("at most 7/8 of the spool's {} MiB: give a larger spool, or feed fewer tokens at once",
                            memory_.ring_bytes() >> 20));

  wire::Begin body{.parts = n_parts, .rows = rows, .queries = queries, .id_bytes = id_bytes, .decode = decode};
  body.parts_at = body_end<wire::Begin>();
  body.ids_at = body.parts_at + aligned(n_parts * static_cast<std::int64_t>(sizeof(wire::Part)));
  body.use_at = body.ids_at + aligned(rows * id_bytes);
  std::byte* message = reserve(Kind::begin, body.use_at + aligned(rows));
  std::memcpy(message + sizeof(wire::Header), &body, sizeof body);
  std::memcpy(message + body.parts_at, chosen.data(), chosen.size() * sizeof(wire::Part));
  std::memcpy(message + body.use_at, use.data(), use.size());
  parts_ = std::move(chosen), use_ = std::move(use), sent_ = std::move(sent);
  rows_ = rows, queries_ = queries, next_layer_ = 0, in_pass_ = true, ++pass_;
  if (device < 0) {
    std::byte* to = message + body.ids_at;
    for (std::int64_t p = 0; p < n_parts; ++p) {
      std::memcpy(to, parts[p].ids, static_cast<std::size_t>(parts[p].n * id_bytes));
      to += parts[p].n * id_bytes;
    }
    publish();
    return;
  }
  const kernels::DeviceGuard guard(device);
  auto* run = static_cast<kernels::DeviceStream>(stream);
  DeviceLane& out = lane(device);
  std::byte* packed = out.take(rows * id_bytes, run);
  std::int64_t at = 0;
  for (std::int64_t p = 0; p < n_parts; ++p) {
    kernels::copy_on_device(packed + at, parts[p].ids, parts[p].n * id_bytes, run);
    at += parts[p].n * id_bytes;
  }
  out.send(message + body.ids_at, at, run);
  publish(out);
}

void Client::layer(std::int64_t layer, const kvg_layer_part* parts, int device, void* stream) {
  check_open("a layer");
  const PlanShape& shape = plan_.shape;
  if (!in_pass_ || layer != next_layer_ || parts == nullptr)
    throw usage(fmt::format("layer {}", layer), fmt::format("layer {} of a pass that has begun", next_layer_));
  bool hidden = true, attn_in = true;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const kvg_layer_part& part = parts[p];
    hidden = hidden && part.hidden_norm != nullptr;
    attn_in = attn_in && part.attn_in_norm != nullptr;
    if (part.k.data == nullptr || part.v.data == nullptr || part.lse == nullptr ||
        (part.q.data == nullptr && parts_[p].queries > 0))
      throw usage(fmt::format("layer {} without k, v, lse or q", layer), "all four");
  }
  const LayerShape places(shape, rows_, queries_, hidden, attn_in);
  wire::Layer body = places.body;
  body.layer = layer;
  std::byte* message = reserve(Kind::layer, places.size_bytes);
  std::memcpy(message + sizeof(wire::Header), &body, sizeof body);
  ++next_layer_;

  // Packed where it lies, as the message wants it; from a device that is one block for the copy engine.
  const bool host = device < 0;
  const kernels::DeviceGuard guard(device);
  auto* run = static_cast<kernels::DeviceStream>(stream);
  DeviceLane* out = host ? nullptr : &lane(device);
  const std::int64_t payload = places.size_bytes - body.k_at;
  std::byte* base = host ? message : out->take(payload, run) - body.k_at;
  const std::int32_t* index = sent_.data();
  if (!host && queries_ > 0 && queries_ < rows_) index = out->indices(sent_, pass_, run);
  const auto pack = [&](std::byte* to, const kernels::PackRows& from) {
    if (host)
      kernels::pack_rows(to, from);
    else
      kernels::pack_rows_on_device(to, from, run);
  };
  const std::int64_t element = size_bytes(shape.dtype), bytes = shape.head_dim * element;
  std::int64_t row = 0, query = 0;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const kvg_layer_part& part = parts[p];
    const std::int64_t n = parts_[p].n, queries = parts_[p].queries;
    const auto rows = [&](const kvg_rows& from, std::int64_t count, std::int64_t heads) {
      return kernels::PackRows{.from = from.data,
                               .row_stride = from.row_stride * element,
                               .head_stride = from.head_stride * element,
                               .row_bytes = bytes,
                               .n = count,
                               .heads = heads};
    };
    const auto dense = [&](const float* from, std::int64_t width) {
      return kernels::PackRows{
          .from = from, .row_stride = width * 4, .head_stride = 0, .row_bytes = width * 4, .n = n, .heads = 1};
    };
    pack(base + body.k_at + row * shape.kv_heads * bytes, rows(part.k, n, shape.kv_heads));
    pack(base + body.v_at + row * shape.kv_heads * bytes, rows(part.v, n, shape.kv_heads));
    if (queries > 0) {
      kernels::PackRows q = rows(part.q, queries, shape.query_heads);
      q.head_major = false;
      if (queries < n || queries_ < rows_) q.index = index + query;
      pack(base + body.q_at + query * shape.query_heads * bytes, q);
    }
    pack(base + body.lse_at + row * shape.query_heads * 4, dense(part.lse, shape.query_heads));
    if (hidden) pack(base + body.hidden_norm_at + row * 4, dense(part.hidden_norm, 1));
    if (attn_in) pack(base + body.attn_in_norm_at + row * 4, dense(part.attn_in_norm, 1));
    row += n, query += queries;
  }
  if (host) {
    publish();
    return;
  }
  out->send(message + body.k_at, payload, run);
  publish(*out);
}

void Client::end(const kvg_end_rows* rows, int device, void* stream) {
  check_open("the end of a pass");
  const PlanShape& shape = plan_.shape;
  if (!in_pass_ || next_layer_ != shape.layers)
    throw usage(fmt::format("the end of a pass after {} layers", next_layer_), fmt::format("{} layers", shape.layers));
  wire::End body;
  std::int64_t size = body_end<wire::End>(), element = 4;
  const auto place = [&size](std::int64_t bytes) {
    const std::int64_t at = size;
    size += aligned(bytes);
    return at;
  };
  if (rows != nullptr) {
    element = size_bytes(static_cast<DType>(rows->logits_dtype));
    if (rows->logits_dtype < KVG_F32 || rows->logits_dtype > KVG_BF16 || rows->logit_rows < 0 || rows->vocab < 0 ||
        (rows->logit_rows > 0 && (rows->logits == nullptr || rows->logit_row == nullptr)))
      throw usage(fmt::format("{} rows of {} logits", rows->logit_rows, rows->vocab),
                  "rows with logits and their index");
    body.logit_rows = rows->logit_rows, body.vocab = rows->vocab, body.logits_dtype = rows->logits_dtype;
    body.logit_row_at = place(body.logit_rows * 8);
    vocab_bytes_ = body.vocab * element;
  }
  const std::int64_t first = size;
  if (rows != nullptr) {
    body.logits_at = place(body.logit_rows * body.vocab * element);
    if (rows->hidden_norm) body.hidden_norm_at = place(rows_ * (shape.layers + 1) * 4);
    if (rows->attn_in_norm) body.attn_in_norm_at = place(rows_ * shape.layers * 4);
  }
  std::byte* message = reserve(Kind::end, size);
  std::memcpy(message + sizeof(wire::Header), &body, sizeof body);
  in_pass_ = false;
  if (rows == nullptr) return publish();
  std::memcpy(message + body.logit_row_at, rows->logit_row, static_cast<std::size_t>(body.logit_rows * 8));
  const auto copy_all = [&](auto&& copy) {
    if (body.logit_rows > 0) copy(body.logits_at, rows->logits, body.logit_rows * body.vocab * element);
    if (rows->hidden_norm) copy(body.hidden_norm_at, rows->hidden_norm, rows_ * (shape.layers + 1) * 4);
    if (rows->attn_in_norm) copy(body.attn_in_norm_at, rows->attn_in_norm, rows_ * shape.layers * 4);
  };
  if (device < 0 || size == first) {
    copy_all([&](std::int64_t at, const void* from, std::int64_t bytes) {
      std::memcpy(message + at, from, static_cast<std::size_t>(bytes));
    });
    return publish();
  }
  const kernels::DeviceGuard guard(device);
  auto* run = static_cast<kernels::DeviceStream>(stream);
  DeviceLane& out = lane(device);
  std::byte* base = out.take(size - first, run) - first;
  copy_all([&](std::int64_t at, const void* from, std::int64_t bytes) {
    kernels::copy_on_device(base + at, from, bytes, run);
  });
  out.send(message + first, size - first, run);
  publish(out);
}

}  // namespace kvgrind::traces
