// S2-Attention: local blocks, and of the older ones every stride-th, shifted from head to head so that the heads
// together cover the context.
//   block of position j: j div size; kept where newest block − block < local, or
//   (block + head · step + offset) mod stride == 0, step = max(1, stride div query heads); the last `dense` heads and
//   the first `dense_layers` layers keep everything; the amount is not used; stride=1 keeps everything
//   source: arXiv 2407.17678; linxihui/dkernel dkernel/utils.py
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const Params& p = context.params;
  const ModelCard& card = *context.facts.card;
  const std::int64_t size = p.integer("block"), stride = p.integer("stride");
  const std::int64_t step = std::max<std::int64_t>(1, stride / card.query_heads);
  const std::int64_t newest = (context.moment.tokens - 1) / size;
  const bool dense = context.group >= card.kv_heads - p.integer("dense") || context.layer < p.integer("dense_layers");
  Selection out;
  std::vector<std::int32_t> rest;
  for (std::size_t j = 0; j < context.slots.position.size(); ++j) {
    const std::int64_t block = context.slots.position[j] / size;
    const bool kept = dense || newest - block < p.integer("local") ||
                      (block + context.group * step + p.integer("offset")) % stride == 0;
    (kept ? out.kept : rest).push_back(static_cast<std::int32_t>(j));
  }
  out.order = out.kept;
  out.order.insert(out.order.end(), rest.begin(), rest.end());
  return out;
}

}  // namespace

extern const SelectRow strided;
const SelectRow strided = {
    .name = "strided",
    .source = "arXiv 2407.17678; linxihui/dkernel",
    .help = "local blocks and every stride-th older one, shifted from head to head",
    .params = {{"block", ParamType::integer, "64", "positions of a block", 1, 1e6},
               {"local", ParamType::integer, "32", "newest blocks that all heads keep", 1, 1e9},
               {"stride", ParamType::integer, "8", "one of so many older blocks is kept", 1, 1e6},
               {"offset", ParamType::integer, "0", "shift of the pattern, in blocks", 0, 1e6},
               {"dense", ParamType::integer, "0", "last cache heads that keep everything", 0, 1e6},
               {"dense_layers", ParamType::integer, "0", "first layers that keep everything", 0, 1e6}},
    .columns = {},
    .count = CountClass::fixed,
    .select = select,
};

}  // namespace kvgrind::sim::selects
