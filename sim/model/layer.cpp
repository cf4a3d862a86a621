// One decoder layer over the joint batch: h = x + Attention(norm x); x = h + MLP(norm h).
#include <algorithm>

#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "sim/model/pass.h"

namespace kvgrind::sim {
namespace {

constexpr std::int64_t mlp_rows = 512;  // bounds the widest buffer; rows do not depend on each other

// x += delta (when there is one), normed = rms_norm(x).
void add_and_norm(Pass& pass, bool add, const std::vector<float>& weight) {
  const float eps = pass.model.config.rms_eps;
  parallel_rows(pass.x.extent(0), [&](std::int64_t begin, std::int64_t n) {
    const View<float, 2> x = pass.x.slice(begin, n);
    if (add) {
      const float* delta = pass.delta.slice(begin, n).data();
      for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] += delta[i];
    }
    kernels::rms_norm(x, weight, eps, pass.normed.slice(begin, n));
  });
}

// q, k, v of all rows; q and k normed (where the family does) and rotated. q_pre receives q before the rotation.
void project(Pass& pass, std::int64_t index, View<float, 2> qkv, View<float, 2> q_pre) {
  const ModelCard& card = pass.model.config.card;
  const ModelLayer& layer = pass.model.layers[static_cast<std::size_t>(index)];
  const RopeSet& rope = pass.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(index)].rope_set)];
  const std::int64_t dim = card.head_dim, q_width = card.query_heads * dim;
  kernels::linear(layer.qkv, pass.normed, qkv);
  parallel_rows(pass.rows(), [&](std::int64_t begin, std::int64_t n) {
    const View<float, 2> rows = qkv.slice(begin, n);
    const auto norm_heads = [&](const std::vector<float>& weight, std::int64_t first, std::int64_t count) {
      if (weight.empty()) return;
      for (std::int64_t h = first; h < first + count; ++h) {
        const View<float, 2> head = columns(rows, h * dim, dim);
        kernels::rms_norm(head, weight, pass.model.config.rms_eps, head);
      }
    };
    norm_heads(layer.q_norm, 0, card.query_heads);
    norm_heads(layer.k_norm, card.query_heads, card.kv_heads);
    if (q_pre.data())
      for (std::int64_t t = 0; t < n; ++t)
        std::copy_n(rows.data() + t * rows.stride(0), q_width, q_pre.slice(begin + t, 1).data());
    // q and k lie side by side: one rotation turns both.
    const auto positions =
        std::span(pass.position).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(n));
    kernels::rope_apply(rope, positions, heads(rows, 0, card.query_heads + card.kv_heads, dim));
  });
}

// Shows the layer to the taps and tells the caches that it is done. `attn_out` may be empty.
void show(Pass& pass, std::int64_t index, View<const float, 2> qkv, View<const float, 2> q_pre,
          View<const float, 2> lse, View<const float, 2> attn_out) {
  const ModelCard& card = pass.model.config.card;
  const std::int64_t dim = card.head_dim, q_heads = card.query_heads;
  for (std::size_t f = 0; f < pass.feeds.size(); ++f) {
    const Feed& feed = pass.feeds[f];
    const std::int64_t first = pass.row[f], n = pass.rows(f);
    const View<const float, 2> rows = qkv.slice(first, n);
    const View<const float, 3> q = heads(rows, 0, q_heads, dim);
    if (feed.tap) {
      TapLayer shown{.layer = index,
                     .q = q,
                     .k = heads(rows, q_heads * dim, card.kv_heads, dim),
                     .v = heads(rows, (q_heads + card.kv_heads) * dim, card.kv_heads, dim),
                     .input = pass.x.slice(first, n),
                     .attn_in = pass.normed.slice(first, n)};
      if (q_pre.data()) shown.q_pre = heads(q_pre.slice(first, n), 0, q_heads, dim);
      if (lse.data()) shown.lse = {lse.data() + first, {n, q_heads}, {1, lse.stride(0)}};
      if (attn_out.data()) shown.attn_out = attn_out.slice(first, n);
      feed.tap->layer(shown);
    }
    feed.cache->layer_done(index, feed.first, q);
  }
}

void attention_part(Pass& pass, std::int64_t index) {
  const ModelCard& card = pass.model.config.card;
  const ModelLayer& layer = pass.model.layers[static_cast<std::size_t>(index)];
  const std::int64_t rows = pass.rows(), dim = card.head_dim;
  const std::int64_t q_width = card.query_heads * dim, k_width = card.kv_heads * dim;
  const View<float, 2> qkv = pass.work.qkv.shape(rows, q_width + 2 * k_width);
  const View<float, 2> q_pre = pass.needs_q_pre ? pass.work.q_pre.shape(rows, q_width) : View<float, 2>{};
  const View<float, 2> lse = pass.needs_lse ? pass.work.lse.shape(card.query_heads, rows) : View<float, 2>{};
  View<float, 2> attended = pass.work.attended.shape(rows, q_width);
  const View<float, 3> q = heads(qkv, 0, card.query_heads, dim);
  const View<float, 3> k = heads(qkv, q_width, card.kv_heads, dim);
  const View<float, 3> v = heads(qkv, q_width + k_width, card.kv_heads, dim);

  project(pass, index, qkv, q_pre);
  for (std::size_t f = 0; f < pass.feeds.size(); ++f) {
    const Feed& feed = pass.feeds[f];
    const std::int64_t first = pass.row[f], n = pass.rows(f);
    feed.cache->append(index, feed.first, k.slice(first, n), v.slice(first, n));
    feed.cache->before_attention(index, feed.first, q.slice(first, n));
  }
  attend(pass, index, q, attended, lse);
  if (!pass.only_wanted(index)) {
    kernels::linear(layer.output, attended, pass.delta);
    show(pass, index, qkv, q_pre, lse, pass.delta);
    return;
  }
  show(pass, index, qkv, q_pre, lse, {});
  attended = wanted_rows(pass, attended, pass.work.last_attended);
  pass.x = wanted_rows(pass, pass.x, pass.work.last_x);
  // Shaped anew: a row may be wanted twice, so there may be more rows than before.
  pass.normed = pass.work.normed.shape(pass.x.extent(0), card.hidden);
  pass.delta = pass.work.delta.shape(pass.x.extent(0), card.hidden);
  kernels::linear(layer.output, attended, pass.delta);
}

// delta = Down(silu(Gate u) · Up u), u = normed.
void mlp_part(Pass& pass, std::int64_t index) {
  const ModelLayer& layer = pass.model.layers[static_cast<std::size_t>(index)];
  const std::int64_t width = pass.model.config.card.intermediate;
  for (std::int64_t first = 0; first < pass.x.extent(0); first += mlp_rows) {
    const std::int64_t n = std::min(mlp_rows, pass.x.extent(0) - first);
    const View<float, 2> gate_up = pass.work.gate_up.shape(n, 2 * width);
    const View<float, 2> activated = pass.work.activated.shape(n, width);
    kernels::linear(layer.gate_up, pass.normed.slice(first, n), gate_up);
    parallel_rows(n, [&](std::int64_t begin, std::int64_t count) {
      const View<float, 2> block = gate_up.slice(begin, count);
      kernels::silu_mul(columns(block, 0, width), columns(block, width, width), activated.slice(begin, count));
    });
    kernels::linear(layer.down, activated, pass.delta.slice(first, n));
  }
}

}  // namespace

void run_layer(Pass& pass, std::int64_t index) {
  const ModelLayer& layer = pass.model.layers[static_cast<std::size_t>(index)];
  add_and_norm(pass, index > 0, layer.attention_norm);
  attention_part(pass, index);
  add_and_norm(pass, true, layer.mlp_norm);
  mlp_part(pass, index);
}

}  // namespace kvgrind::sim
