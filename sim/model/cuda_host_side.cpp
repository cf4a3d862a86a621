// Where a pass on the device meets host memory: caches that policies own, and taps.
#include <algorithm>
#include <numeric>

#include "core/parallel.h"
#include "kernels/attention/attention.h"
#include "kernels/convert/convert_cuda.h"
#include "sim/model/cuda_pass.h"

namespace kvgrind::sim {
namespace {

constexpr std::int64_t block = kernels::attention_block;

// [Hk, n, D] seen as [n, Hk, D].
View<const float, 3> token_major(const float* data, std::int64_t n, std::int64_t heads, std::int64_t dim) {
  return {data, {n, heads, dim}, {dim, n * dim, 1}};
}

}  // namespace

const float* CudaPass::download(const void* from, DType dtype, std::int64_t n, PinnedScratch& to) {
  float* host = to.of<float>(n);
  if (dtype != DType::f32) {
    float* wide = context_.wide.of<float>(n * 4, "staging memory");
    kernels::to_f32_cuda(dtype, from, n, wide, stream_);
    from = wide;
  }
  kernels::copy_to_host(host, from, n * 4, stream_);
  return host;
}

void CudaPass::download_qkv(const Part& part, std::int64_t l) {
  const std::int64_t dim = card_.head_dim, q_count = part.n * card_.query_heads * dim,
                     k_count = part.n * card_.kv_heads * dim;
  void* k = element_at(k_rows_, part.row * card_.kv_heads * dim);
  void* v = element_at(v_rows_, part.row * card_.kv_heads * dim);
  if (part.cache) {  // the rows lie in the cache alone
    const kernels::PlainCache cache = part.cache->view(l);
    const std::int64_t row = dim * model_.element(), at = part.feed->first * row;
    for (const auto& [to, from] : {std::pair{k, cache.k}, std::pair{v, cache.v}})
      kernels::copy_rows_on_device(to, part.n * row, static_cast<const std::byte*>(from) + at,
                                   cache.head_stride * model_.element(), part.n * row, card_.kv_heads, stream_);
  }
  host_q_ = download(element_at(q_, part.row * card_.query_heads * dim), model_.dtype(), q_count, context_.host_q);
  host_k_ = download(k, model_.dtype(), k_count, context_.host_k);
  host_v_ = download(v, model_.dtype(), k_count, context_.host_v);
}

void CudaPass::attend_host(const Part& part, std::int64_t l) {
  KvCache& cache = *part.feed->cache;
  const std::int64_t dim = card_.head_dim, n = part.n, first = part.feed->first, heads = cache.heads();
  download_qkv(part, l);
  kernels::synchronize(stream_);
  const View<const float, 3> q(host_q_, {n, card_.query_heads, dim});
  cache.append(l, first, token_major(host_k_, n, card_.kv_heads, dim), token_major(host_v_, n, card_.kv_heads, dim));
  cache.before_attention(l, first, q);

  // All that the cache heads show, in one block: per head k, v, positions and count biases, each starting at a multiple
  // of four floats.
  std::vector<GroupView> shown;
  std::vector<std::int64_t> at;
  std::int64_t floats = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    shown.push_back(cache.read(l, h));
    at.push_back(floats);
    const auto slots = static_cast<std::int64_t>(shown.back().position.size());
    floats += (2 * slots * dim + 3 * slots + 7) / 4 * 4;
  }
  float* packed = context_.host_slots.of<float>(floats);
  float* device = context_.slots.of<float>(floats * 4, "what the cache shows");
  std::vector<kernels::DeviceGroup> groups(static_cast<std::size_t>(heads));
  parallel_for(heads, [&](std::int64_t h) {
    const GroupView& group = shown[static_cast<std::size_t>(h)];
    const auto slots = static_cast<std::int64_t>(group.position.size());
    const std::int64_t base = at[static_cast<std::size_t>(h)];
    float* to = packed + base;
    for (const View<const float, 2>& from : {group.k, group.v}) {
      const bool dense = from.stride(1) == 1 && from.stride(0) == dim;
      if (dense) std::copy_n(from.data(), slots * dim, to);
      for (std::int64_t i = 0; !dense && i < slots; ++i)
        for (std::int64_t d = 0; d < dim; ++d) to[i * dim + d] = from(i, d);
      to += slots * dim;
    }
    std::copy_n(group.position.data(), slots, reinterpret_cast<std::int64_t*>(to));
    to += 2 * slots;
    if (group.log_count) std::copy_n(group.log_count, slots, to);
    const float* remote = device + base;
    groups[static_cast<std::size_t>(h)] = {
        .k = remote,
        .v = remote + slots * dim,
        .position = reinterpret_cast<const std::int64_t*>(remote + 2 * slots * dim),
        .log_count = group.log_count ? remote + 2 * slots * dim + 2 * slots : nullptr,
        .n = slots};
  });
  kernels::copy_to_device(device, packed, floats * 4, stream_);
  auto* groups_device = context_.groups.of<kernels::DeviceGroup>(
      static_cast<std::int64_t>(groups.size() * sizeof(kernels::DeviceGroup)) + 8, "cache groups");
  kernels::copy_to_device(groups_device, groups.data(),
                          static_cast<std::int64_t>(groups.size() * sizeof(kernels::DeviceGroup)), stream_);

  const std::int64_t width = card_.query_heads * dim;
  auto* wide_q = context_.ragged_q.of<float>(n * width * 4, "activations");
  auto* wide_out = context_.ragged_out.of<float>(n * width * 4, "activations");
  kernels::to_f32_cuda(model_.dtype(), element_at(q_, part.row * width), n * width, wide_q, stream_);
  kernels::AttentionShape shape = model_.attention_shape(l);
  shape.dtype = DType::f32;
  shape.cache_heads = heads;
  float* lse = lse_ + part.row * card_.query_heads;
  if (n == 1) {
    std::int64_t slots = 1;
    for (const GroupView& group : shown) slots = std::max(slots, static_cast<std::int64_t>(group.position.size()));
    kernels::AttentionDecode a;
    a.shape = shape, a.q = wide_q, a.groups = groups_device, a.out = wide_out, a.lse = lse;
    a.splits = kernels::attention_decode_splits(shape, 1, slots, context_.info.multiprocessors);
    a.workspace = context_.workspace.of(kernels::attention_decode_workspace_bytes(shape, 1, a.splits), "workspace");
    auto* position = reinterpret_cast<std::int64_t*>(groups_device + heads);
    kernels::copy_to_device(position, &first, 8, stream_);
    a.position = position;
    kernels::attention_decode_cuda(a, stream_);
  } else {
    kernels::AttentionRagged a;
    a.shape = shape, a.q = wide_q, a.n = n, a.first = first, a.groups = groups_device, a.out = wide_out, a.lse = lse;
    kernels::attention_ragged_cuda(a, stream_);
  }
  kernels::from_f32_cuda(model_.dtype(), wide_out, n * width, element_at(attended_, part.row * width), stream_);
  if (part.feed->tap && part.feed->tap->wants_probabilities(l)) host_probabilities(part, l, shown);
  kernels::synchronize(stream_);  // the staging memory is free again
  if (!part.feed->tap) cache.layer_done(l, first, q);
}

// Rows of softmax over what a host cache shows: computed on the host, from the same q and k.
void CudaPass::host_probabilities(const Part& part, std::int64_t l, const std::vector<GroupView>& groups) {
  const std::int64_t dim = card_.head_dim, first = part.feed->first;
  std::vector<std::int64_t> positions(static_cast<std::size_t>(part.n));
  std::iota(positions.begin(), positions.end(), first);
  parallel_for(card_.query_heads, [&](std::int64_t h) {
    const GroupView& group =
        groups[static_cast<std::size_t>(h * static_cast<std::int64_t>(groups.size()) / card_.query_heads)];
    kernels::AttentionParams a;
    a.q = {host_q_ + h * dim, {part.n, dim}, {card_.query_heads * dim, 1}};
    a.q_position = positions;
    a.k = group.k, a.v = group.v, a.k_position = group.position, a.log_count = group.log_count;
    a.scale = card_.scale, a.softcap = card_.softcap;
    a.window = card_.layer[static_cast<std::size_t>(l)].window;
    if (!card_.sinks.empty()) a.sink = &card_.sinks[static_cast<std::size_t>(l * card_.query_heads + h)];
    a.probabilities = [&](std::int64_t row, View<const float, 2> p) {
      part.feed->tap->probabilities(
          {.layer = l, .head = h, .first = first + row, .p = p, .key_position = group.position});
    };
    kernels::attention(a);
  });
}

void CudaPass::device_probabilities(const Part& part, std::int64_t l) {
  const std::int64_t dim = card_.head_dim, first = part.feed->first, last = first + part.n;
  std::vector<std::int64_t> key_position(static_cast<std::size_t>(last));
  std::iota(key_position.begin(), key_position.end(), 0);
  for (std::int64_t begin = first; begin < last;) {
    const std::int64_t rows = std::min(last, (begin / block + 1) * block) - begin;
    const std::int64_t row = part.row + begin - first, count = card_.query_heads * rows * last;
    kernels::AttentionProbabilities a;
    a.shape = model_.attention_shape(l);
    a.q = element_at(q_, row * card_.query_heads * dim), a.n = rows, a.first = begin, a.slots = last;
    a.cache = part.cache->view(l), a.lse = lse_ + row * card_.query_heads;
    a.p = context_.probabilities.of<float>(count * 4, "rows of probabilities");
    kernels::attention_probabilities_cuda(a, stream_);
    const float* p = download(a.p, DType::f32, count, context_.host_probabilities);
    kernels::synchronize(stream_);
    parallel_for(card_.query_heads, [&](std::int64_t h) {
      part.feed->tap->probabilities({.layer = l,
                                     .head = h,
                                     .first = begin,
                                     .p = {p + h * rows * last, {rows, last}},
                                     .key_position = key_position});
    });
    begin += rows;
  }
}

void CudaPass::show_layer(const Part& part, std::int64_t l) {
  const std::int64_t dim = card_.head_dim, n = part.n, hidden = card_.hidden, heads = card_.query_heads;
  if (part.cache && part.feed->tap->wants_probabilities(l)) device_probabilities(part, l);
  download_qkv(part, l);
  const float* q_pre =
      download(element_at(q_pre_, part.row * heads * dim), model_.dtype(), n * heads * dim, context_.host_q_pre);
  const float* lse = download(lse_ + part.row * heads, DType::f32, n * heads, context_.host_lse);
  const float* input = download(x_ + part.row * hidden, DType::f32, n * hidden, context_.host_input);
  const float* attn_in =
      download(element_at(normed_, part.row * hidden), model_.dtype(), n * hidden, context_.host_attn_in);
  const float* attn_out = download(delta_ + part.row * hidden, DType::f32, n * hidden, context_.host_attn_out);
  kernels::synchronize(stream_);
  const View<const float, 3> q(host_q_, {n, heads, dim});
  part.feed->tap->layer({.layer = l,
                         .q = q,
                         .q_pre = {q_pre, {n, heads, dim}},
                         .k = token_major(host_k_, n, card_.kv_heads, dim),
                         .v = token_major(host_v_, n, card_.kv_heads, dim),
                         .lse = {lse, {n, heads}},
                         .input = {input, {n, hidden}},
                         .attn_in = {attn_in, {n, hidden}},
                         .attn_out = {attn_out, {n, hidden}}});
  if (!part.cache) part.feed->cache->layer_done(l, part.feed->first, q);
}

}  // namespace kvgrind::sim
