// LoopServe: everything is stored; every n tokens the slots to read are chosen anew by what the last n outputs looked
// at.
//   a choice at token t: the best B − w slots before t − w by Σ attention of queries [t − w, t) over the group, w =
//   min(n, B, t), and those w tokens; later tokens are read too until the next choice. B = what the amount gives then
//   source: arXiv 2507.13681
#include "kernels/rank/rank.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/read_support.h"

namespace kvgrind::sim::reads {
namespace {

void choose(const ReadContext& context, std::int64_t t, std::vector<float>& chosen) {
  const GroupSlots& slots = context.cache.group(context.layer, context.group);
  const auto [low, high] = seen_slots(context, t);
  const std::int64_t budget =
      base_amount(context.amount, high - low, *context.facts.card, context.cache.heads()).tokens;
  const std::int64_t w = std::min({context.params.integer("n"), budget, t});
  const std::vector<double> sum = attention_of(context, t - w, w);
  std::vector<float> past;
  for (std::int64_t j = low; j < high && slots.position[static_cast<std::size_t>(j)] < t - w; ++j)
    past.push_back(static_cast<float>(sum[static_cast<std::size_t>(j)]));
  chosen = {static_cast<float>(t), static_cast<float>(t - w)};
  for (const std::int32_t j : kernels::top_k(past, budget - w))
    chosen.push_back(static_cast<float>(slots.position[static_cast<std::size_t>(low + j)]));
}

void read(const ReadContext& context, std::vector<std::vector<std::int32_t>>& slots_of_query) {
  const GroupSlots& slots = context.cache.group(context.layer, context.group);
  std::vector<float>& chosen = context.memory["reselect"];  // when, from where on all, positions
  for (std::int64_t i = 0; i < context.q.extent(0); ++i) {
    const std::int64_t t = context.first + i;
    const auto since = chosen.empty() ? -1 : t - static_cast<std::int64_t>(chosen[0]);
    if (since < 0 || since >= context.params.integer("n")) choose(context, t, chosen);
    const auto [low, high] = seen_slots(context, t);
    auto next = chosen.begin() + 2;
    for (std::int64_t j = low; j < high; ++j) {
      const auto position = static_cast<float>(slots.position[static_cast<std::size_t>(j)]);
      while (next != chosen.end() && *next < position) ++next;
      if (position >= chosen[1] || (next != chosen.end() && *next == position))
        slots_of_query[static_cast<std::size_t>(i)].push_back(static_cast<std::int32_t>(j));
    }
  }
}

}  // namespace

extern const ReadRow reselect;
const ReadRow reselect = {
    .name = "reselect",
    .source = "arXiv 2507.13681",
    .help = "every n tokens the slots to read are chosen by what the last outputs looked at",
    .params = {{"n", ParamType::integer, "16", "tokens between choices, and outputs that vote", 1, 65536}},
    .needs = {Signal::queries},
    .reads_all = false,
    .read = read,
};

}  // namespace kvgrind::sim::reads
