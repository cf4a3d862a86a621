#include "sim/engine/pre_rope.h"

#include <algorithm>
#include <numeric>

#include "kernels/rope/rope.h"

namespace kvgrind::sim {

const RopeSet& rope_of(const ModelCard& card, std::int64_t layer) {
  return card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(layer)].rope_set)];
}

Array<float, 2> pre_rope_keys(const ScoreContext& context) {
  const GroupSlots& slots = context.slots();
  Array<float, 2> out({slots.size(), slots.head_dim});
  std::copy(slots.k.begin(), slots.k.end(), out.data());
  kernels::rope_undo(rope_of(*context.facts.card, context.layer), slots.rotary,
                     View<float, 3>(out.data(), {slots.size(), 1, slots.head_dim}));
  return out;
}

Array<float, 2> slot_queries(const ScoreContext& context, std::int64_t query_head, bool pre_rope) {
  const std::vector<std::int64_t>& position = context.slots().position;
  const auto n = static_cast<std::int64_t>(position.size());
  const std::int64_t dim = context.facts.card->head_dim;
  Array<float, 2> out({n, dim});
  for (std::int64_t i = 0; i < n;) {  // stretches of consecutive positions
    std::int64_t end = i + 1;
    while (end < n && position[static_cast<std::size_t>(end)] == position[static_cast<std::size_t>(end - 1)] + 1) ++end;
    const Array<float, 2> rows =
        context.signals.queries(context.layer, query_head, position[static_cast<std::size_t>(i)], end - i);
    std::copy_n(rows.data(), (end - i) * dim, out.data() + i * dim);
    i = end;
  }
  if (pre_rope)
    kernels::rope_undo(rope_of(*context.facts.card, context.layer), position, View<float, 3>(out.data(), {n, 1, dim}));
  return out;
}

void rotate_from(const ModelCard& card, std::int64_t layer, std::int64_t first, Array<float, 2>& x) {
  std::vector<std::int64_t> position(static_cast<std::size_t>(x.extent(0)));
  std::iota(position.begin(), position.end(), first);
  kernels::rope_apply(rope_of(card, layer), position, View<float, 3>(x.data(), {x.extent(0), 1, x.extent(1)}));
}

}  // namespace kvgrind::sim
