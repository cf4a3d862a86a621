// The forward pass on the device: the joint batch over feeds, layer by layer.
#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <numeric>

#include "core/error.h"
#include "kernels/activation/activation_cuda.h"
#include "kernels/embedding/embedding_cuda.h"
#include "kernels/norm/norm_cuda.h"
#include "kernels/rope/rope_cuda.h"
#include "sim/model/chunks.h"
#include "sim/model/cuda_pass.h"

namespace kvgrind::sim {
namespace {

void check_ids(const ModelCard& card, std::span<const Feed> feeds) {
  for (const Feed& feed : feeds)
    for (std::size_t i = 0; i < feed.ids.size(); ++i)
      if (feed.ids[i] < 0 || feed.ids[i] >= card.vocab)
        throw Error(Category::usage, {.doing = "running model",
                                      .on = fmt::format("{}, sequence {}", card.name, feed.sequence),
                                      .found = fmt::format("token id {} at position {}", feed.ids[i],
                                                           feed.first + static_cast<std::int64_t>(i)),
                                      .expected = fmt::format("ids from 0 to {}", card.vocab - 1)});
}

}  // namespace

CudaPass::CudaPass(const CudaModel& model, std::span<const Feed> feeds, DeviceTap* tap)
    : model_(model), context_(*model.context), card_(model.config.card), tap_(tap), stream_(context_.stream.get()) {
  for (const Feed& feed : feeds) {
    Part part;
    part.feed = &feed;
    part.row = rows_;
    part.n = static_cast<std::int64_t>(feed.ids.size());
    part.cache = dynamic_cast<CudaCache*>(feed.cache);
    part.wanted = feed.logits_of;
    if (feed.tap && feed.tap->wants_all_logits()) {
      part.wanted.resize(feed.ids.size());
      std::iota(part.wanted.begin(), part.wanted.end(), 0);
    }
    if (part.cache) {
      assert(part.cache->model().get() == &model && part.cache->size() == feed.first);
      part.cache->reserve(feed.first + part.n);
    }
    rows_ += part.n;
    tapped_ = tapped_ || feed.tap;
    device_only_ = device_only_ && part.cache;
    parts_.push_back(std::move(part));
  }
  const std::int64_t element = model.element(), q_width = card_.query_heads * card_.head_dim;
  const std::int64_t k_width = card_.kv_heads * card_.head_dim;
  x_ = context_.x.of<float>(rows_ * card_.hidden * 4, "activations");
  normed_ = context_.normed.of(rows_ * card_.hidden * element, "activations");
  qkv_ = context_.qkv.of(rows_ * (q_width + 2 * k_width) * element, "activations");
  q_ = context_.q.of(rows_ * q_width * element, "activations");
  attended_ = context_.attended.of(rows_ * q_width * element, "activations");
  lse_ = context_.lse.of<float>(rows_ * card_.query_heads * 4, "activations");
  hidden_norm_ = context_.hidden_norm.of<float>((card_.layers + 1) * rows_ * 4, "activations");
  attn_in_norm_ = context_.attn_in_norm.of<float>(card_.layers * rows_ * 4, "activations");
  if (tapped_) {
    delta_ = context_.delta.of<float>(rows_ * card_.hidden * 4, "activations");
    q_pre_ = context_.q_pre.of(rows_ * q_width * element, "activations");
  }
  if (!device_only_ || tapped_) {
    k_rows_ = context_.k_rows.of(rows_ * k_width * element, "activations");
    v_rows_ = context_.v_rows.of(rows_ * k_width * element, "activations");
  }
}

void* CudaPass::element_at(void* base, std::int64_t index) const {
  return static_cast<std::byte*>(base) + index * model_.element();
}

std::vector<Array<float, 2>> CudaPass::run() {
  for (const Part& part : parts_) {
    const TapPass pass{
        .sequence = part.feed->sequence, .first = part.feed->first, .ids = part.feed->ids, .decode = part.feed->decode};
    if (part.feed->tap) part.feed->tap->begin(pass);
    if (tap_) tap_->begin(pass, stream_);
  }
  if (rows_ > 0) {
    embed();
    for (std::int64_t l = 0; l < card_.layers; ++l) layer(l);
  }
  for (const Part& part : parts_)
    if (part.cache) part.cache->set_size(part.feed->first + part.n);
  return finish();
}

void CudaPass::embed() {
  std::int32_t* host = context_.host_ids.of<std::int32_t>(rows_);
  for (const Part& part : parts_) std::copy(part.feed->ids.begin(), part.feed->ids.end(), host + part.row);
  auto* ids = context_.ids.of<std::int32_t>(rows_ * 4, "token ids");
  kernels::copy_to_device(ids, host, rows_ * 4, stream_);
  const auto parts = static_cast<std::int64_t>(parts_.size());
  auto* host_position = context_.host_positions.of<std::int64_t>(parts);
  for (std::int64_t i = 0; i < parts; ++i) host_position[i] = parts_[static_cast<std::size_t>(i)].feed->first;
  positions_ = context_.positions.of<std::int64_t>(parts * 8, "positions");
  kernels::copy_to_device(positions_, host_position, parts * 8, stream_);
  kernels::gather_rows_cuda(model_.dtype(), model_.embedding.as(), ids, rows_, card_.hidden, x_, stream_);
  for (std::size_t s = 0; s < context_.inv_freq.size(); ++s) {
    const std::int64_t half = context_.rope_half[s];
    auto* table = context_.tables[s].of<float>(rows_ * half * 2 * 4, "rotary angles");
    for (const Part& part : parts_)
      kernels::rope_table_cuda({.inv_freq = context_.inv_freq[s].as<float>(),
                                .half = half,
                                .n = part.n,
                                .first = part.feed->first,
                                .first_device = nullptr,
                                .factor = context_.rope_factor[s],
                                .table = table + part.row * half * 2},
                               stream_);
  }
}

void CudaPass::layer(std::int64_t l) {
  const CudaLayer& weights = model_.layers[static_cast<std::size_t>(l)];
  const DType dtype = model_.dtype();
  const std::int64_t q_width = card_.query_heads * card_.head_dim, k_width = card_.kv_heads * card_.head_dim;
  kernels::RmsNorm norm;
  norm.x = x_, norm.w = weights.attention_norm.as<float>(), norm.eps = model_.config.rms_eps;
  norm.n = rows_, norm.width = card_.hidden, norm.dtype = dtype, norm.out = normed_;
  norm.x_norm = hidden_norm_ + l * rows_, norm.out_norm = attn_in_norm_ + l * rows_;
  kernels::rms_norm_cuda(norm, stream_);
  context_.products.multiply(dtype, normed_, weights.qkv.as(), rows_, q_width + 2 * k_width, card_.hidden, dtype, qkv_);
  for (const Part& part : parts_) {
    rotate(part, l);
    if (part.cache)
      attend_device(part, l);
    else
      attend_host(part, l);
  }
  // With a host tap the sublayer's output is wanted by itself; without, the product adds to the residual.
  float* into = tapped_ ? delta_ : x_;
  context_.products.multiply(dtype, attended_, weights.output.as(), rows_, card_.hidden, q_width, DType::f32, into,
                             !tapped_);
  if (weights.output_bias) kernels::add_bias_cuda(into, weights.output_bias.as<float>(), rows_, card_.hidden, stream_);
  if (tapped_) {
    for (const Part& part : parts_)
      if (part.feed->tap) show_layer(part, l);
    kernels::add_cuda(x_, delta_, rows_ * card_.hidden, stream_);
  }
  mlp(l);
}

void CudaPass::rotate(const Part& part, std::int64_t l) {
  const CudaLayer& weights = model_.layers[static_cast<std::size_t>(l)];
  const auto set = static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(l)].rope_set);
  const std::int64_t dim = card_.head_dim, q_width = card_.query_heads * dim, k_width = card_.kv_heads * dim;
  kernels::RopeWrite w;
  w.dtype = model_.dtype();
  w.qkv = element_at(qkv_, part.row * (q_width + 2 * k_width));
  w.bias = weights.qkv_bias.as<float>();
  w.q_norm = weights.q_norm.as<float>(), w.k_norm = weights.k_norm.as<float>(), w.eps = model_.config.rms_eps;
  w.n = part.n, w.query_heads = card_.query_heads, w.kv_heads = card_.kv_heads, w.head_dim = dim;
  w.half = context_.rope_half[set];
  w.table = context_.tables[set].of<float>(0, "rotary angles") + part.row * w.half * 2;
  w.q = element_at(q_, part.row * q_width);
  w.q_pre = tapped_ ? element_at(q_pre_, part.row * q_width) : nullptr;
  if (part.cache) {
    const kernels::PlainCache cache = part.cache->view(l);
    w.k = const_cast<void*>(cache.k), w.v = const_cast<void*>(cache.v);
    w.row_stride = dim, w.head_stride = cache.head_stride, w.first = part.feed->first;
  } else {
    w.k = element_at(k_rows_, part.row * k_width), w.v = element_at(v_rows_, part.row * k_width);
    w.row_stride = dim, w.head_stride = part.n * dim, w.first = 0;  // [Hk, n, D]
  }
  kernels::rope_write_cuda(w, stream_);
}

void CudaPass::attend_device(const Part& part, std::int64_t l) {
  const std::int64_t q_width = card_.query_heads * card_.head_dim;
  const void* q = element_at(q_, part.row * q_width);
  void* out = element_at(attended_, part.row * q_width);
  float* lse = lse_ + part.row * card_.query_heads;
  const kernels::AttentionShape shape = model_.attention_shape(l);
  const kernels::PlainCache cache = part.cache->view(l);
  if (part.n == 1) {
    kernels::AttentionDecode a;
    a.shape = shape, a.q = q, a.cache = cache, a.out = out, a.lse = lse;
    a.position = positions_ + (&part - parts_.data());
    a.splits = kernels::attention_decode_splits(shape, 1, part.cache->capacity(), context_.info.multiprocessors);
    a.workspace = context_.workspace.of(kernels::attention_decode_workspace_bytes(shape, 1, a.splits), "workspace");
    kernels::attention_decode_cuda(a, stream_);
  } else {
    kernels::attention_prefill_cuda(
        {.shape = shape, .q = q, .n = part.n, .first = part.feed->first, .cache = cache, .out = out, .lse = lse},
        stream_);
  }
  if (!tap_) return;
  tap_->layer({.layer = l,
               .n = part.n,
               .first = part.feed->first,
               .shape = shape,
               .q = q,
               .k = cache.k,
               .v = cache.v,
               .head_stride = cache.head_stride,
               .lse = lse,
               .hidden_norm = hidden_norm_ + l * rows_ + part.row,
               .attn_in_norm = attn_in_norm_ + l * rows_ + part.row},
              stream_);
}

void CudaPass::mlp(std::int64_t l) {
  const CudaLayer& weights = model_.layers[static_cast<std::size_t>(l)];
  const DType dtype = model_.dtype();
  kernels::RmsNorm norm;
  norm.x = x_, norm.w = weights.mlp_norm.as<float>(), norm.eps = model_.config.rms_eps;
  norm.n = rows_, norm.width = card_.hidden, norm.dtype = dtype, norm.out = normed_;
  kernels::rms_norm_cuda(norm, stream_);
  constexpr std::int64_t mlp_rows = 8192;  // bounds the widest buffer; rows do not depend on each other
  for (std::int64_t first = 0; first < rows_; first += mlp_rows) {
    const std::int64_t n = std::min(mlp_rows, rows_ - first), width = card_.intermediate;
    void* gate_up = context_.gate_up.of(n * 2 * width * model_.element(), "activations");
    void* activated = context_.activated.of(n * width * model_.element(), "activations");
    float* x = x_ + first * card_.hidden;
    context_.products.multiply(dtype, element_at(normed_, first * card_.hidden), weights.gate_up.as(), n, 2 * width,
                               card_.hidden, dtype, gate_up);
    kernels::silu_mul_cuda(dtype, gate_up, weights.gate_up_bias.as<float>(), n, width, activated, stream_);
    context_.products.multiply(dtype, activated, weights.down.as(), n, card_.hidden, width, DType::f32, x, true);
    if (weights.down_bias) kernels::add_bias_cuda(x, weights.down_bias.as<float>(), n, card_.hidden, stream_);
  }
}

// In pieces of at most 256 MiB; normed_ holds all rows behind the final norm.
void CudaPass::show_logits(const Part& part) {
  const std::int64_t piece = std::clamp<std::int64_t>((256ll << 20) / (card_.vocab * 4), 1, part.n);
  for (std::int64_t first = 0; first < part.n; first += piece) {
    const std::int64_t n = std::min(piece, part.n - first);
    auto* logits = context_.logits.of<float>(piece * card_.vocab * 4, "logits");
    context_.products.multiply(model_.dtype(), element_at(normed_, (part.row + first) * card_.hidden), model_.head(), n,
                               card_.vocab, card_.hidden, DType::f32, logits);
    tap_->logits(logits, first, n, stream_);
  }
}

std::vector<Array<float, 2>> CudaPass::finish() {
  // The final residual's norms, then the rows whose logits are wanted through the final norm and the head.
  float* final_norms = hidden_norm_ + card_.layers * rows_;
  std::int64_t count = 0;
  for (const Part& part : parts_) count += static_cast<std::int64_t>(part.wanted.size());
  kernels::RmsNorm norm;
  norm.w = model_.final_norm.as<float>(), norm.eps = model_.config.rms_eps, norm.width = card_.hidden;
  norm.dtype = model_.dtype();
  if (tap_ && rows_ > 0) {
    norm.x = x_, norm.n = rows_, norm.out = normed_, norm.x_norm = final_norms;
    kernels::rms_norm_cuda(norm, stream_);
    for (const Part& part : parts_) {
      if (tap_->wants_all_logits()) show_logits(part);
      tap_->end(final_norms + part.row, stream_);
    }
  }
  const float* logits = nullptr;
  if (count > 0) {
    kernels::synchronize(stream_);  // the staging memory may still feed the copy of the ids
    std::int32_t* wanted = context_.host_ids.of<std::int32_t>(count);
    std::int64_t at = 0;
    for (const Part& part : parts_)
      for (const std::int64_t row : part.wanted) wanted[at++] = static_cast<std::int32_t>(part.row + row);
    auto* rows = context_.wanted.of<std::int32_t>(count * 4, "row numbers");
    kernels::copy_to_device(rows, wanted, count * 4, stream_);
    auto* x = context_.last_x.of<float>(count * card_.hidden * 4, "activations");
    kernels::gather_rows_cuda(DType::f32, x_, rows, count, card_.hidden, x, stream_);
    norm.x = x, norm.n = count, norm.out = context_.normed.of(count * card_.hidden * model_.element(), "activations");
    norm.x_norm = nullptr;
    kernels::rms_norm_cuda(norm, stream_);
    auto* device = context_.logits.of<float>(count * card_.vocab * 4, "logits");
    context_.products.multiply(model_.dtype(), norm.out, model_.head(), count, card_.vocab, card_.hidden, DType::f32,
                               device);
    logits = download(device, DType::f32, count * card_.vocab, context_.host_logits);
  }
  const float* final_residual = tapped_ ? download(x_, DType::f32, rows_ * card_.hidden, context_.host_final) : nullptr;
  kernels::synchronize(stream_);

  std::vector<Array<float, 2>> out;
  std::int64_t at = 0;
  for (const Part& part : parts_) {
    const auto held = static_cast<std::int64_t>(part.wanted.size());
    const auto asked = static_cast<std::int64_t>(part.feed->logits_of.size());
    const View<const float, 2> own(logits + at * card_.vocab, {held, card_.vocab});
    at += held;
    const bool all = part.feed->tap && part.feed->tap->wants_all_logits();
    Array<float, 2>& result = out.emplace_back(Array<float, 2>::Extents{asked, card_.vocab});
    for (std::int64_t i = 0; i < asked; ++i) {
      const std::int64_t row = all ? part.feed->logits_of[static_cast<std::size_t>(i)] : i;
      std::copy_n(own.data() + row * card_.vocab, card_.vocab, result.data() + i * card_.vocab);
    }
    if (part.feed->tap)
      part.feed->tap->end({.final_residual = {final_residual + part.row * card_.hidden, {part.n, card_.hidden}},
                           .logits = own,
                           .logit_rows = part.wanted});
  }
  return out;
}

std::vector<Array<float, 2>> forward(const CudaModel& model, std::span<const Feed> feeds, const RunOptions& options,
                                     DeviceTap* tap) {
  check_ids(model.config.card, feeds);
  const std::lock_guard lock(model.context->mutex);
  kernels::use_device(model.device);
  prepare_rope(model, options.announced_length);
  if (step_fits(feeds)) return run_step(model, feeds[0], tap);
  return CudaPass(model, feeds, tap).run();
}

Array<float, 2> prefill(const CudaModel& model, const Feed& feed, std::int64_t chunk, const RunOptions& options,
                        DeviceTap* tap) {
  return run_in_chunks(feed, chunk, model.config.card.vocab, [&](const Feed& part) {
    return std::move(forward(model, {&part, 1}, options, tap)[0]);
  });
}

}  // namespace kvgrind::sim
