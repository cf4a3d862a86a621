#include "traces/capi/attention_again.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "kernels/attention/attention.h"

namespace kvgrind::traces {
namespace {

void widen(const TapRows& rows, std::int64_t row, std::int64_t head, std::int64_t dim, float* out) {
  to_f32(rows.dtype,
         static_cast<const std::byte*>(rows.data) +
             (row * rows.row_stride + head * rows.head_stride) * size_bytes(rows.dtype),
         dim, out);
}

// The rotation undone: dims (m, m + r/2) by −position · inv_freq[m], divided by the factor.
void unrotate(const RopeSet& set, std::int64_t position, float* x) {
  const std::size_t half = set.inv_freq.size();
  for (std::size_t m = 0; m < half; ++m) {
    const float angle = static_cast<float>(position) * set.inv_freq[m];
    const float c = std::cos(angle) / set.attention_factor, s = std::sin(angle) / set.attention_factor;
    const float a = x[m], b = x[m + half];
    x[m] = a * c + b * s;
    x[m + half] = b * c - a * s;
  }
}

}  // namespace

AttentionAgain::Keys& AttentionAgain::keys_of(std::int64_t sequence) {
  Keys& keys = keys_[sequence];
  if (keys.empty()) keys.resize(static_cast<std::size_t>(card_.layers * card_.kv_heads));
  return keys;
}

void AttentionAgain::fork(std::int64_t parent, std::int64_t sequence, std::int64_t tokens) {
  if (keys_.contains(sequence)) return;
  Keys keys = keys_of(parent);
  for (std::vector<float>& group : keys) group.resize(static_cast<std::size_t>(tokens * card_.head_dim));
  keys_[sequence] = std::move(keys);
}

const Array<float, 3>& AttentionAgain::add(Recorder& recorder, std::int64_t sequence, std::int64_t layer,
                                           std::int64_t first, const TapRows& k, const TapRows& q,
                                           View<const float, 2> lse) {
  const std::int64_t n = lse.extent(0), D = card_.head_dim, heads = card_.query_heads, total = first + n;
  Keys& keys = keys_of(sequence);
  for (std::int64_t h = 0; h < card_.kv_heads; ++h) {
    std::vector<float>& group = keys[static_cast<std::size_t>(layer * card_.kv_heads + h)];
    group.resize(static_cast<std::size_t>(total * D));
    for (std::int64_t i = 0; i < n; ++i) widen(k, i, h, D, group.data() + (first + i) * D);
  }
  q_ = Array<float, 3>({n, heads, D});
  pre_ = Array<float, 3>({n, heads, D});
  const LayerCard& one = card_.layer[static_cast<std::size_t>(layer)];
  const RopeSet none{};
  const RopeSet& set = card_.rope.empty() ? none : card_.rope[static_cast<std::size_t>(one.rope_set)];
  std::vector<std::int64_t> positions(static_cast<std::size_t>(total));
  std::iota(positions.begin(), positions.end(), 0);
  parallel_for(heads, [&](std::int64_t h) {
    Array<float, 2> rows({n, D});
    for (std::int64_t i = 0; i < n; ++i) {
      widen(q, i, h, D, &rows(i, 0));
      std::copy_n(&rows(i, 0), D, &q_(i, h, 0));
      std::copy_n(&rows(i, 0), D, &pre_(i, h, 0));
      unrotate(set, first + i, &pre_(i, h, 0));
    }
    const std::vector<float>& group = keys[static_cast<std::size_t>(layer * card_.kv_heads + h / card_.group())];
    std::vector<float> own_lse(static_cast<std::size_t>(n));
    struct Block {
      std::int64_t row;
      Array<float, 2> p;
    };
    std::vector<Block> blocks;
    kernels::AttentionParams params;
    params.q = rows;
    params.q_position = std::span(positions).subspan(static_cast<std::size_t>(first));
    params.k = params.v = View<const float, 2>(group.data(), {total, D});
    params.k_position = positions;
    params.scale = card_.scale, params.softcap = card_.softcap, params.window = one.window;
    if (!card_.sinks.empty()) params.sink = &card_.sinks[static_cast<std::size_t>(layer * heads + h)];
    params.lse = own_lse.data();
    params.probabilities = [&](std::int64_t row, View<const float, 2> p) {
      // Only the keys that a causal row can see, at the LSE that was recorded.
      const std::int64_t seen = first + row + p.extent(0);
      Block block{row, Array<float, 2>({p.extent(0), seen})};
      for (std::int64_t i = 0; i < p.extent(0); ++i)
        for (std::int64_t j = 0; j < seen; ++j) block.p(i, j) = p(i, j);
      blocks.push_back(std::move(block));
    };
    kernels::attention(params);
    for (Block& block : blocks) {
      for (std::int64_t i = 0; i < block.p.extent(0); ++i) {
        const float factor = std::exp(own_lse[static_cast<std::size_t>(block.row + i)] - lse(block.row + i, h));
        for (std::int64_t j = 0; j < block.p.extent(1); ++j) block.p(i, j) *= factor;
      }
      recorder.probabilities({.layer = layer,
                              .head = h,
                              .first = first + block.row,
                              .p = block.p,
                              .key_position = std::span(positions).first(static_cast<std::size_t>(block.p.extent(1)))});
    }
  });
  return pre_;
}

}  // namespace kvgrind::traces
