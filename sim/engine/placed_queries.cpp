#include "sim/engine/placed_queries.h"

#include <Eigen/Core>
#include <cmath>

#include "kernels/pool/pool.h"
#include "sim/engine/pre_rope.h"

namespace kvgrind::sim {

std::vector<double> placed_attention(const ScoreContext& context, Array<float, 2> q, std::int64_t first,
                                     std::int64_t pool) {
  using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  rotate_from(card, context.layer, first, q);
  const Eigen::Map<const Rows> rows(q.data(), q.extent(0), q.extent(1));
  const Eigen::Map<const Rows> k(slots.k.data(), slots.size(), slots.head_dim);
  const Eigen::MatrixXd z = (rows * k.transpose()).cast<double>() * static_cast<double>(card.scale);
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(slots.size());
  for (std::int64_t i = 0; i < q.extent(0); ++i) {
    const Eigen::VectorXd p = (z.row(i).array() - z.row(i).maxCoeff()).exp().matrix().transpose();
    sum += p / (p.sum() * static_cast<double>(q.extent(0)));
  }
  std::vector<float> mean(static_cast<std::size_t>(slots.size())), pooled(mean.size());
  for (std::size_t j = 0; j < mean.size(); ++j) mean[j] = static_cast<float>(sum(static_cast<Eigen::Index>(j)));
  kernels::pool_avg(mean, pool, pooled);
  return {pooled.begin(), pooled.end()};
}

}  // namespace kvgrind::sim
