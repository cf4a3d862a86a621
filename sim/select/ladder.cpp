// LaCache: every layer keeps another slice of old slots, so that over the layers any old slot survives somewhere.
//   L layers, before = 1 + ceil((L − span)/(span − overlap)), after = min(ceil(span/(span − overlap)), before),
//   red = before − after; B grows by floor(red / 2). With n slots, a cursor c (at first `start`) and room = B − c − L:
//   n − B ≤ (room div after) · red: ladders = ceil((n − B)/red); kept [0, c), c + (l mod (red+1)) + before·r + k for
//   r < ladders, k < after, and [c + before·ladders, n); c += ladders · after
//   else the room is used up in this way, and what is left is compacted again from `start` with
//   before' = before + (times−1)(before−1), steps of times·k, times = ceil(excess / capacity of one pass)
//   no ladder possible (span = all layers, or less than L slots of room): sinks and the newest
//   source: arXiv 2507.14204; GATECH-EIC/LaCache ppl/lacache/kv_cache.py
#include <algorithm>
#include <numeric>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::selects {
namespace {

using Slots = std::vector<std::int32_t>;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

struct Shape {
  std::int64_t layer = 0, before = 1, after = 1, times = 1;
  std::int64_t red() const { return before - after; }
};

// Slots that `ladders` ladders from `cursor` on leave.
Slots climb(const Slots& slots, std::int64_t cursor, std::int64_t ladders, const Shape& shape) {
  const auto n = static_cast<std::int64_t>(slots.size());
  Slots out(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(std::min(cursor, n)));
  const std::int64_t offset = cursor + shape.layer % (shape.red() + 1);
  for (std::int64_t r = 0; r < ladders; ++r)
    for (std::int64_t k = 0; k < shape.after; ++k)
      if (const std::int64_t at = offset + shape.before * r + shape.times * k; at < n)
        out.push_back(slots[static_cast<std::size_t>(at)]);
  for (std::int64_t at = cursor + shape.before * ladders; at < n; ++at)
    out.push_back(slots[static_cast<std::size_t>(at)]);
  return out;
}

Selection select(const SelectContext& context) {
  const std::int64_t layers = context.facts.card->layers, n = context.slots.size();
  const std::int64_t start = context.params.integer("start");
  std::int64_t span = context.params.integer("span");
  if (span == 0) span = (layers + 1) / 2;
  span = std::min(span, layers);
  const std::int64_t step = std::max<std::int64_t>(1, span - context.params.integer("overlap"));
  const Shape shape{context.layer, 1 + ceil_div(layers - span, step),
                    std::min(ceil_div(span, step), 1 + ceil_div(layers - span, step)), 1};
  std::vector<float>& cursor = context.memory["ladder"];
  if (cursor.empty()) cursor = {static_cast<float>(start)};
  Slots slots(static_cast<std::size_t>(n));
  std::iota(slots.begin(), slots.end(), 0);
  const std::int64_t budget = n > context.budget ? context.budget + shape.red() / 2 : context.budget;
  auto at = static_cast<std::int64_t>(cursor[0]);
  const bool possible = shape.red() > 0 && shape.after > 0 && budget - start - layers >= shape.after;
  std::int64_t excess = n - budget;
  if (excess > 0 && possible) {
    const std::int64_t room = std::max<std::int64_t>(0, budget - at - layers);
    const std::int64_t fits = room / shape.after;
    if (excess <= fits * shape.red()) {
      const std::int64_t ladders = ceil_div(excess, shape.red());
      slots = climb(slots, at, ladders, shape);
      at += ladders * shape.after;
    } else {
      slots = climb(slots, at, fits, shape);
      // Over and over where one pass is not enough (a prompt of many times the budget).
      while ((excess = static_cast<std::int64_t>(slots.size()) - budget) > 0) {
        const std::int64_t once = (budget - start - layers) / shape.after * shape.red();
        Shape wide = shape;
        wide.times = ceil_div(excess, std::max<std::int64_t>(1, once));
        wide.before = shape.before + (wide.times - 1) * (shape.before - 1);
        const std::int64_t most = (static_cast<std::int64_t>(slots.size()) - start - layers) / wide.before;
        const std::int64_t ladders = std::min(ceil_div(excess, wide.red()), most);
        if (ladders <= 0) break;
        slots = climb(slots, start, ladders, wide);
        at = start + ladders * wide.after;
      }
    }
  }
  if (static_cast<std::int64_t>(slots.size()) > budget) {
    const std::int64_t first = std::min(start, budget);
    slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(first),
                slots.end() - static_cast<std::ptrdiff_t>(budget - first));
  }
  cursor[0] = static_cast<float>(at);
  Selection out{.kept = slots, .order = slots};
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(n); ++j)
    if (!std::binary_search(slots.begin(), slots.end(), j)) out.order.push_back(j);
  return out;
}

}  // namespace

extern const SelectRow ladder;
const SelectRow ladder = {
    .name = "ladder",
    .source = "arXiv 2507.14204; GATECH-EIC/LaCache kv_cache.py",
    .help = "another slice of old slots in every layer",
    .params = {{"start", ParamType::integer, "4", "first slots, always kept", 0, 1e9},
               {"span", ParamType::integer, "0", "layers that hold the same slot; 0 = half of all", 0, 1e6},
               {"overlap", ParamType::integer, "0", "layers that neighbouring slices share", 0, 1e6}},
    .columns = {},
    .count = CountClass::threshold,
    .select = select,
};

}  // namespace kvgrind::sim::selects
