// The same share of every slice of consecutive slots, each by its own best scores.
//   of a slice of n: max(1, floor(n · share)), share = the amount (like `--removed`: trunc(n · (1 − removed)))
//   source: NVIDIA/kvpress chunk_press.py
#include <algorithm>
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::selects {
namespace {

std::int64_t share_of(const SelectContext& context, std::int64_t slice) {
  const Amount& amount = *context.facts.amount;
  const auto n = static_cast<double>(slice);
  const double kept = amount.kind == Amount::Kind::removed
                          ? n * (1 - amount.value)
                          : n * static_cast<double>(context.budget) / static_cast<double>(context.slots.size()) + 1e-9;
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(kept), 1, slice);
}

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), size = context.params.integer("size");
  Selection out;
  std::vector<std::int32_t> rest;
  for (std::int64_t begin = 0; begin < n; begin += size) {
    const std::int64_t slice = std::min(size, n - begin);
    const std::span<const float> own(context.columns.s.data() + begin, static_cast<std::size_t>(slice));
    std::int64_t place = 0;
    const std::int64_t count = share_of(context, slice);
    for (const std::int32_t i : kernels::rank_order(own, &context.nan_scores)) {
      const auto slot = static_cast<std::int32_t>(begin + i);
      (place++ < count ? out.kept : rest).push_back(slot);
    }
  }
  out.order = out.kept;
  out.order.insert(out.order.end(), rest.begin(), rest.end());
  std::sort(out.kept.begin(), out.kept.end());
  return out;
}

}  // namespace

extern const SelectRow by_slice;
const SelectRow by_slice = {
    .name = "by_slice",
    .source = "NVIDIA/kvpress chunk_press.py",
    .help = "the same share of every slice of consecutive slots",
    .params = {{"size", ParamType::integer, "1024", "slots of a slice", 1, 1e9}},
    .columns = {},
    .count = CountClass::threshold,
    .select = select,
};

}  // namespace kvgrind::sim::selects
