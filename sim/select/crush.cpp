// KVCrush over heads: besides the best slots, some of the others that stand for the rest, spread over signatures.
//   signature of a slot: one bit a cache head of the layer, set where the head ranks it within the budget (score
//   all_heads); the best (1 − share) · B by score; the others, sorted by Hamming distance of their signature to the
//   anchor (ties: position), in floor(share · B) equal buckets, the best score of each bucket stays
//   anchor=mean: the majority of each bit over the slots; zeros, ones, or random bits by seed
//   source: arXiv 2503.00022 (over heads; the split and the choice within a bucket are kvgrind's)
#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "kernels/rank/rank.h"
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

using Bits = std::vector<std::uint8_t>;

bool anchor_bit(const SelectContext& context, const Bits& head, std::int64_t index) {
  const std::string& anchor = context.params.word("anchor");
  if (anchor == "ones") return true;
  if (anchor == "zeros") return false;
  if (anchor == "random") {
    const RandomKey key{context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer), -1,
                        "crush"};
    return random_uniform(key, index) < 0.5f;
  }
  return 2 * std::count(head.begin(), head.end(), std::uint8_t{1}) > static_cast<std::int64_t>(head.size());
}

std::vector<std::int64_t> distances(const SelectContext& context) {
  std::vector<std::int64_t> out(context.columns.s.size(), 0);
  std::int64_t index = 0;
  for (const auto& [name, column] : context.columns.extra) {
    if (!name.starts_with("head ")) continue;
    Bits head(column.size(), 0);
    for (const std::int32_t j : kernels::top_k(column, context.budget)) head[static_cast<std::size_t>(j)] = 1;
    const bool anchor = anchor_bit(context, head, index++);
    for (std::size_t j = 0; j < head.size(); ++j) out[j] += (head[j] != 0) != anchor;
  }
  return out;
}

Selection select(const SelectContext& context) {
  std::vector<std::int32_t> order = priority_order(context.slots, context.columns.s, {}, context.nan_scores);
  const auto n = static_cast<std::int64_t>(order.size());
  if (n <= context.budget) return take_first(std::move(order), n);
  const auto spread = static_cast<std::int64_t>(
      std::floor(context.params.number("share") * static_cast<double>(context.budget) + 1e-9));
  const std::int64_t best = context.budget - spread;
  std::vector<std::int64_t> rank(order.size());
  for (std::int64_t r = 0; r < n; ++r) rank[static_cast<std::size_t>(order[static_cast<std::size_t>(r)])] = r;
  const std::vector<std::int64_t> distance = distances(context);
  std::vector<std::int32_t> rest(order.begin() + static_cast<std::ptrdiff_t>(best), order.end());
  std::sort(rest.begin(), rest.end(), [&](std::int32_t a, std::int32_t b) {
    const auto da = distance[static_cast<std::size_t>(a)], db = distance[static_cast<std::size_t>(b)];
    return da != db ? da < db : a < b;
  });
  const auto m = static_cast<std::int64_t>(rest.size());
  std::vector<std::int32_t> first(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(best));
  std::vector<char> taken(order.size());
  for (std::int64_t b = 0; b < spread; ++b) {
    const auto begin = rest.begin() + static_cast<std::ptrdiff_t>(b * m / spread),
               end = rest.begin() + static_cast<std::ptrdiff_t>((b + 1) * m / spread);
    const auto chosen = *std::min_element(begin, end, [&](std::int32_t a, std::int32_t c) {
      return rank[static_cast<std::size_t>(a)] < rank[static_cast<std::size_t>(c)];
    });
    first.push_back(chosen);
  }
  for (const std::int32_t slot : first) taken[static_cast<std::size_t>(slot)] = 1;
  for (const std::int32_t slot : order)
    if (!taken[static_cast<std::size_t>(slot)]) first.push_back(slot);
  return take_first(std::move(first), context.budget);
}

}  // namespace

extern const SelectRow crush;
const SelectRow crush = {
    .name = "crush",
    .source = "arXiv 2503.00022",
    .help = "the best slots, and others that stand for the rest by signatures over heads",
    .params = {{"share", ParamType::number, "0.25", "share of the budget for those that stand for the rest", 0, 1},
               {"anchor",
                ParamType::word,
                "mean",
                "signature from which distances are counted",
                -1e300,
                1e300,
                {"mean", "zeros", "ones", "random"}}},
    .columns = {"heads"},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
