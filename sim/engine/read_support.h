// What several reads need: attention and queries of the group that reads.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/array.h"
#include "kernels/attention/attention.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// Queries of one head at positions [first, first + n), those of the block that reads included: [n, D].
inline Array<float, 2> queries_of(const ReadContext& context, std::int64_t head, std::int64_t first, std::int64_t n) {
  const std::int64_t dim = context.facts.card->head_dim;
  Array<float, 2> out({n, dim});
  const std::int64_t before = std::clamp<std::int64_t>(context.first - first, 0, n);
  if (before > 0) {
    const Array<float, 2> q = context.signals.queries(context.layer, head, first, before);
    std::copy_n(q.data(), before * dim, out.data());
  }
  for (std::int64_t i = before; i < n; ++i)
    for (std::int64_t d = 0; d < dim; ++d) out(i, d) = context.q(first + i - context.first, head, d);
  return out;
}

// Σ over the group's query heads and over queries at positions [first, first + n) of attention over the slots: [slots].
inline std::vector<double> attention_of(const ReadContext& context, std::int64_t first, std::int64_t n) {
  const ModelCard& card = *context.facts.card;
  const GroupView view = context.cache.read(context.layer, context.group);
  std::vector<double> sum(static_cast<std::size_t>(view.k.extent(0)), 0.0);
  std::vector<std::int64_t> position(static_cast<std::size_t>(n));
  std::iota(position.begin(), position.end(), first);
  for (std::int64_t h = 0; h < context.query_heads() && n > 0; ++h) {
    const std::int64_t head = context.first_query_head() + h;
    const Array<float, 2> q = queries_of(context, head, first, n);
    kernels::AttentionParams params;
    params.q = q;
    params.q_position = position;
    params.k = view.k;
    params.v = view.v;
    params.k_position = view.position;
    params.log_count = view.log_count;
    params.scale = card.scale;
    params.softcap = card.softcap;
    params.window = card.layer[static_cast<std::size_t>(context.layer)].window;
    if (!card.sinks.empty())
      params.sink = &card.sinks[static_cast<std::size_t>(context.layer * card.query_heads + head)];
    params.probabilities = [&](std::int64_t, View<const float, 2> p) {
      for (std::int64_t i = 0; i < p.extent(0); ++i)
        for (std::int64_t j = 0; j < p.extent(1); ++j) sum[static_cast<std::size_t>(j)] += static_cast<double>(p(i, j));
    };
    kernels::attention(params);
  }
  return sum;
}

// Mean over the group's query heads of query i of the block that reads: [D].
inline std::vector<double> mean_query(const ReadContext& context, std::int64_t i) {
  const std::int64_t dim = context.facts.card->head_dim;
  std::vector<double> out(static_cast<std::size_t>(dim), 0.0);
  for (std::int64_t h = 0; h < context.query_heads(); ++h)
    for (std::int64_t d = 0; d < dim; ++d)
      out[static_cast<std::size_t>(d)] += static_cast<double>(context.q(i, context.first_query_head() + h, d)) /
                                          static_cast<double>(context.query_heads());
  return out;
}

// Slots that a query at `position` sees: [first, second), by the layer's window.
inline std::pair<std::int64_t, std::int64_t> seen_slots(const ReadContext& context, std::int64_t position) {
  const auto& at = context.cache.group(context.layer, context.group).position;
  const std::int64_t window = context.facts.card->layer[static_cast<std::size_t>(context.layer)].window;
  const auto begin = window > 0 ? std::upper_bound(at.begin(), at.end(), position - window) : at.begin();
  const auto end = std::upper_bound(at.begin(), at.end(), position);
  return {begin - at.begin(), std::max(begin, end) - at.begin()};
}

}  // namespace kvgrind::sim
