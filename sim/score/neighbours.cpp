// A score, and beside it how much each key is like the next one.
//   out  s and extras of `of`; column "neighbour" [slots] = cos(k_j, k_{j+1}), −1 for the last
//   source: arXiv 2407.08454 (consecutive merge sets)
#include <Eigen/Core>

#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  context.evaluate(context.params.call("of"), out);
  const GroupSlots& slots = context.slots();
  const std::int64_t n = slots.size(), dim = slots.head_dim;
  std::vector<float> cosine(static_cast<std::size_t>(n), -1.0f);
  for (std::int64_t j = 0; j + 1 < n; ++j) {
    const Eigen::Map<const Eigen::VectorXf> a(slots.k.data() + j * dim, dim), b(slots.k.data() + (j + 1) * dim, dim);
    cosine[static_cast<std::size_t>(j)] = a.dot(b) / std::max(a.norm() * b.norm(), 1e-12f);
  }
  out.extra["neighbour"] = std::move(cosine);
}

}  // namespace

extern const ScoreRow neighbours;
const ScoreRow neighbours = {
    .name = "neighbours",
    .source = "arXiv 2407.08454",
    .help = "a score with the cosine of each key to the next",
    .params = {{"of", ParamType::call, "column_sum", "the score", -1e300, 1e300, {"score"}}},
    .needs = {},
    .score = score,
    .gives = {"*", "neighbour"},
};

}  // namespace kvgrind::sim::scores
