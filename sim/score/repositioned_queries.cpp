// Attention of queries set at positions to come: where a query stands matters more than what it asks.
//   in   pre-RoPE queries of the last n positions, keys of the slots
//   out  s [slots]: query i rotated to position T + offset + i, softmax over all slots, mean over the n queries, pooled
//        along the slots, mean over the group's query heads
//   source: arXiv 2603.11564 (abstract; the rest from memory)
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "kernels/pool/pool.h"
#include "kernels/rope/rope.h"
#include "sim/engine/pre_rope.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens, n = std::min(context.params.integer("n"), tokens);
  if (slots.size() == 0) return;
  const Eigen::Map<const Rows> k(slots.k.data(), slots.size(), slots.head_dim);
  std::vector<std::int64_t> position;
  for (std::int64_t i = 0; i < n; ++i) position.push_back(tokens - n + i);
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    Array<float, 2> q = context.signals.queries(context.layer, context.first_query_head() + h, tokens - n, n);
    kernels::rope_undo(rope_of(card, context.layer), position, View<float, 3>(q.data(), {n, 1, q.extent(1)}));
    rotate_from(card, context.layer, tokens + context.params.integer("offset"), q);
    const Eigen::Map<const Rows> rows(q.data(), n, q.extent(1));
    const Eigen::MatrixXd z = (rows * k.transpose()).cast<double>() * static_cast<double>(card.scale);
    Eigen::VectorXd sum = Eigen::VectorXd::Zero(slots.size());
    for (std::int64_t i = 0; i < n; ++i) {
      const Eigen::VectorXd p = (z.row(i).array() - z.row(i).maxCoeff()).exp().matrix().transpose();
      sum += p / (p.sum() * static_cast<double>(n));
    }
    std::vector<float> mean(out.s.size()), pooled(out.s.size());
    for (std::size_t j = 0; j < mean.size(); ++j) mean[j] = static_cast<float>(sum(static_cast<Eigen::Index>(j)));
    kernels::pool_avg(mean, context.params.integer("pool"), pooled);
    head.emplace_back(pooled.begin(), pooled.end());
  }
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow repositioned_queries;
const ScoreRow repositioned_queries = {
    .name = "repositioned_queries",
    .source = "arXiv 2603.11564",
    .help = "attention of the last queries, set at positions to come",
    .params = {{"n", ParamType::integer, "32", "last queries that are set anew", 1, 65536},
               {"offset", ParamType::integer, "0", "positions between the prompt's end and the first of them", 0, 1e7},
               {"pool", ParamType::integer, "5", "width of pooling along tokens; 1 = none", 1, 1023, {}, true},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
