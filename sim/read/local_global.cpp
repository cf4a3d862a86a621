// ALISA: each query reads the newest slots and as many older ones, those its predecessors looked at.
//   k = what the amount gives of the slots seen; local = floor(share · k + 1e-9) newest slots (at least the own); the
//   other k − local: the best Σ attention of the last max(1, local) queries, this one included, over the group
//   source: arXiv 2403.17312
#include <cmath>

#include "kernels/rank/rank.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/read_support.h"

namespace kvgrind::sim::reads {
namespace {

void read(const ReadContext& context, std::vector<std::vector<std::int32_t>>& slots_of_query) {
  for (std::int64_t i = 0; i < context.q.extent(0); ++i) {
    const std::int64_t t = context.first + i;
    const auto [low, high] = seen_slots(context, t);
    const std::int64_t k = std::min(
        high - low, base_amount(context.amount, high - low, *context.facts.card, context.cache.heads()).tokens);
    const auto local = std::min(
        high - low,
        std::max<std::int64_t>(
            1, static_cast<std::int64_t>(std::floor(context.params.number("share") * static_cast<double>(k) + 1e-9))));
    const std::int64_t voters = std::min(local, t + 1);
    const std::vector<double> sum = attention_of(context, t + 1 - voters, voters);
    std::vector<float> older;
    for (std::int64_t j = low; j < high - local; ++j)
      older.push_back(static_cast<float>(sum[static_cast<std::size_t>(j)]));
    auto& chosen = slots_of_query[static_cast<std::size_t>(i)];
    for (const std::int32_t j : kernels::top_k(older, k - local)) chosen.push_back(static_cast<std::int32_t>(low + j));
    for (std::int64_t j = high - local; j < high; ++j) chosen.push_back(static_cast<std::int32_t>(j));
  }
}

}  // namespace

extern const ReadRow local_global;
const ReadRow local_global = {
    .name = "local_global",
    .source = "arXiv 2403.17312",
    .help = "the newest slots, and the older ones that the last queries looked at",
    .params = {{"share", ParamType::number, "0.5", "share of the amount for the newest", 0, 1}},
    .needs = {Signal::queries},
    .reads_all = false,
    .read = read,
};

}  // namespace kvgrind::sim::reads
