// KVMerger: runs of consecutive slots with similar keys become one slot each.
//   protected: the first `sink` slots, the last floor(recent · B), the floor(heavy · B) best scores. Between other
//   neighbours, the most similar first (column "neighbour", at least `least`), n − B links join slots into runs; the
//   best score of a run is its pivot, and the others are to be merged into it. Where links do not suffice, the pivots
//   of the lowest score are dropped
//   source: arXiv 2407.08454; deviations: the similarity threshold is the one that meets the budget
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size(), budget = context.budget;
  const auto share = [&](const char* name) {
    return static_cast<std::int64_t>(std::floor(context.params.number(name) * static_cast<double>(budget) + 1e-9));
  };
  const Protection protection{.sink = context.params.integer("sink"), .recent = share("recent")};
  std::vector<std::int32_t> order = priority_order(context.slots, context.columns.s, protection, context.nan_scores);
  if (n <= budget) return take_first(std::move(order), n);
  std::int64_t guarded = protection.recent + share("heavy");
  for (const std::int64_t position : context.slots.position) guarded += position < protection.sink;
  std::vector<char> guard(static_cast<std::size_t>(n));
  for (std::int64_t r = 0; r < std::min(guarded, n); ++r)
    guard[static_cast<std::size_t>(order[static_cast<std::size_t>(r)])] = 1;

  const std::vector<float>& cosine = context.columns.extra.find("neighbour")->second;
  std::vector<std::int32_t> links;
  for (std::int32_t j = 0; j + 1 < static_cast<std::int32_t>(n); ++j)
    if (!guard[static_cast<std::size_t>(j)] && !guard[static_cast<std::size_t>(j + 1)] &&
        static_cast<double>(cosine[static_cast<std::size_t>(j)]) >= context.params.number("least"))
      links.push_back(j);
  std::stable_sort(links.begin(), links.end(), [&](std::int32_t a, std::int32_t b) {
    return cosine[static_cast<std::size_t>(a)] > cosine[static_cast<std::size_t>(b)];
  });
  if (static_cast<std::int64_t>(links.size()) > n - budget) links.resize(static_cast<std::size_t>(n - budget));
  std::vector<char> joined(static_cast<std::size_t>(n));  // with the next slot
  for (const std::int32_t j : links) joined[static_cast<std::size_t>(j)] = 1;

  std::vector<std::int64_t> rank(static_cast<std::size_t>(n));
  for (std::int64_t r = 0; r < n; ++r) rank[static_cast<std::size_t>(order[static_cast<std::size_t>(r)])] = r;
  std::vector<std::int32_t> into(static_cast<std::size_t>(n), -1);
  for (std::int32_t begin = 0; begin < static_cast<std::int32_t>(n);) {
    std::int32_t end = begin + 1, pivot = begin;
    while (joined[static_cast<std::size_t>(end - 1)]) {
      if (rank[static_cast<std::size_t>(end)] < rank[static_cast<std::size_t>(pivot)]) pivot = end;
      ++end;
    }
    for (; begin < end; ++begin)
      if (begin != pivot) into[static_cast<std::size_t>(begin)] = pivot;
  }
  std::stable_partition(order.begin(), order.end(),
                        [&](std::int32_t slot) { return into[static_cast<std::size_t>(slot)] < 0; });
  Selection out = take_first(std::move(order), budget);
  for (std::int32_t& target : into)
    if (target >= 0 && !std::binary_search(out.kept.begin(), out.kept.end(), target)) target = -1;
  out.into = std::move(into);
  return out;
}

}  // namespace

extern const SelectRow runs;
const SelectRow runs = {
    .name = "runs",
    .source = "arXiv 2407.08454",
    .help = "runs of consecutive slots with similar keys become one slot each",
    .params = {{"recent", ParamType::number, "0.2", "share of the budget for the newest, not merged", 0, 1},
               {"heavy", ParamType::number, "0.2", "share of the budget for the best scores, not merged", 0, 1},
               {"sink", ParamType::integer, "4", "first positions, not merged", 0, 1e9},
               {"least", ParamType::number, "-1", "cosine that neighbours must have to be joined", -1, 1}},
    .columns = {"neighbour"},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
