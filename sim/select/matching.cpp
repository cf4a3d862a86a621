// Chelsea: inside chunks slots are split alternately in A and B, each A is linked to its most similar B, and the
// strongest links are merged; again and again until the budget is met.
//   between `sink` first positions and `recent` last slots; every round: chunks of `size` of what is left, at most half
//   of a chunk can go; links that are needed are shared among chunks by what they can give; clusters are represented
//   by the count-weighted mean of their keys and stay in the slot of their B
//   source: arXiv 2506.11418
#include <Eigen/Core>
#include <algorithm>
#include <numeric>

#include "sim/engine/apportion.h"
#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

struct Cluster {
  std::int32_t slot = 0;  // where it stays
  double count = 1;
  Eigen::VectorXd key;
};
struct Link {
  double cosine = 0;
  std::size_t from = 0, into = 0;
};

std::vector<Link> links_of(const std::vector<Cluster>& clusters, std::size_t begin, std::size_t end) {
  std::vector<Link> out;
  for (std::size_t a = begin; a < end; a += 2) {
    Link best{-2, a, a};
    for (std::size_t b = begin + 1; b < end; b += 2) {
      const double cosine =
          clusters[a].key.dot(clusters[b].key) / std::max(clusters[a].key.norm() * clusters[b].key.norm(), 1e-12);
      if (cosine > best.cosine) best = {cosine, a, b};
    }
    if (best.into != a) out.push_back(best);
  }
  std::stable_sort(out.begin(), out.end(), [](const Link& x, const Link& y) { return x.cosine > y.cosine; });
  return out;
}

Selection select(const SelectContext& context) {
  const std::int64_t n = context.slots.size();
  const auto size = static_cast<std::size_t>(context.params.integer("size"));
  const Protection protection{.sink = context.params.integer("sink"), .recent = context.params.integer("recent")};
  std::vector<std::int32_t> order = priority_order(context.slots, context.columns.s, protection, context.nan_scores);
  if (n <= context.budget) return take_first(std::move(order), n);
  std::vector<std::int32_t> into(static_cast<std::size_t>(n), -1);
  std::vector<Cluster> clusters;
  for (std::int64_t j = 0; j < n - protection.recent; ++j) {
    if (context.slots.position[static_cast<std::size_t>(j)] < protection.sink) continue;
    const Eigen::Map<const Eigen::VectorXf> key(context.keys.data() + j * context.keys.extent(1),
                                                context.keys.extent(1));
    clusters.push_back({static_cast<std::int32_t>(j),
                        static_cast<double>(context.slots.count[static_cast<std::size_t>(j)]), key.cast<double>()});
  }
  std::int64_t excess = n - context.budget;
  while (excess > 0) {
    std::vector<std::vector<Link>> chunk;
    std::vector<double> weight;
    std::vector<std::int64_t> low, high;
    for (std::size_t begin = 0; begin < clusters.size(); begin += size) {
      chunk.push_back(links_of(clusters, begin, std::min(clusters.size(), begin + size)));
      weight.push_back(static_cast<double>(chunk.back().size()));
      low.push_back(0);
      high.push_back(static_cast<std::int64_t>(chunk.back().size()));
    }
    const std::int64_t possible = std::accumulate(high.begin(), high.end(), std::int64_t{0});
    if (possible == 0) break;
    const std::vector<std::int64_t> count = apportion(weight, std::min(excess, possible), low, high);
    std::vector<char> gone(clusters.size());
    for (std::size_t c = 0; c < chunk.size(); ++c)
      for (std::int64_t l = 0; l < count[c]; ++l) {
        const Link& link = chunk[c][static_cast<std::size_t>(l)];
        Cluster &from = clusters[link.from], &to = clusters[link.into];
        to.key = (to.count * to.key + from.count * from.key) / (to.count + from.count);
        to.count += from.count;
        gone[link.from] = 1;
        into[static_cast<std::size_t>(from.slot)] = to.slot;
        --excess;
      }
    std::vector<Cluster> left;
    for (std::size_t i = 0; i < clusters.size(); ++i)
      if (!gone[i]) left.push_back(std::move(clusters[i]));
    clusters = std::move(left);
  }
  for (std::int32_t& target : into)  // to the slot where the cluster stays in the end
    while (target >= 0 && into[static_cast<std::size_t>(target)] >= 0) target = into[static_cast<std::size_t>(target)];
  std::stable_partition(order.begin(), order.end(),
                        [&](std::int32_t slot) { return into[static_cast<std::size_t>(slot)] < 0; });
  Selection out = take_first(std::move(order), context.budget);
  for (std::int32_t& target : into)
    if (target >= 0 && !std::binary_search(out.kept.begin(), out.kept.end(), target)) target = -1;
  out.into = std::move(into);
  return out;
}

}  // namespace

extern const SelectRow matching;
const SelectRow matching = {
    .name = "matching",
    .source = "arXiv 2506.11418",
    .help = "slots of a chunk are matched in pairs of similar keys, the most similar become one",
    .params = {{"size", ParamType::integer, "64", "slots of a chunk", 2, 65536},
               {"sink", ParamType::integer, "4", "first positions, not merged", 0, 1e9},
               {"recent", ParamType::integer, "32", "last slots, not merged", 0, 1e9}},
    .columns = {},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
