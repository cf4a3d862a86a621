// The best that any reading policy can do: each query reads the slots it attends to most, summed over the group.
//   B of a query = what the amount gives at the compression moment, plus the tokens since (as a one-shot policy has);
//   for earlier queries that are asked again, the amount alone source: kvgrind
#include <algorithm>
#include <array>

#include "core/array.h"
#include "kernels/attention/attention.h"
#include "kernels/rank/rank.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::reads {
namespace {

void read(const ReadContext& context, std::vector<std::vector<std::int32_t>>& slots_of_query) {
  const ModelCard& card = *context.facts.card;
  const GroupView view = context.cache.read(context.layer, context.group);
  const std::int64_t window = card.layer[static_cast<std::size_t>(context.layer)].window;
  const std::int64_t n = context.q.extent(0), slots = view.k.extent(0);
  std::vector<std::int64_t> position(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) position[static_cast<std::size_t>(i)] = context.first + i;
  Array<float, 2> mass({n, slots});
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::int64_t head = context.first_query_head() + h;
    kernels::AttentionParams params;
    params.q = {
        context.q.data() + head * context.q.stride(1), {n, card.head_dim}, {context.q.stride(0), context.q.stride(2)}};
    params.q_position = position;
    params.k = view.k;
    params.v = view.v;
    params.k_position = view.position;
    params.log_count = view.log_count;
    params.scale = card.scale;
    params.softcap = card.softcap;
    params.window = window;
    if (!card.sinks.empty())
      params.sink = &card.sinks[static_cast<std::size_t>(context.layer * card.query_heads + head)];
    params.probabilities = [&](std::int64_t begin, View<const float, 2> p) {
      for (std::int64_t i = 0; i < p.extent(0); ++i)
        for (std::int64_t j = 0; j < slots; ++j) mass(begin + i, j) += p(i, j);
    };
    kernels::attention(params);
  }
  const std::int64_t then = window > 0 ? std::min(context.compressed_at, window - 1) : context.compressed_at;
  const std::int64_t base = base_amount(context.amount, then, card, context.cache.heads()).tokens;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t at = context.first + i;
    const auto begin =
        window > 0 ? std::upper_bound(view.position.begin(), view.position.end(), at - window) : view.position.begin();
    const auto end = std::upper_bound(view.position.begin(), view.position.end(), at);
    const auto low = begin - view.position.begin(), count = std::max<std::ptrdiff_t>(0, end - begin);
    const std::span<const float> row(mass.data() + i * slots + low, static_cast<std::size_t>(count));
    auto& chosen = slots_of_query[static_cast<std::size_t>(i)];
    chosen = kernels::top_k(row, base + std::max<std::int64_t>(0, at + 1 - context.compressed_at));
    for (std::int32_t& slot : chosen) slot += static_cast<std::int32_t>(low);
  }
}

}  // namespace

extern const ReadRow top_attention;
const ReadRow top_attention = {
    .name = "top_attention",
    .source = "kvgrind",
    .help = "each query reads the slots it attends to most (the oracle of reading)",
    .params = {},
    .needs = {},
    .reads_all = false,
    .read = read,
};

}  // namespace kvgrind::sim::reads
