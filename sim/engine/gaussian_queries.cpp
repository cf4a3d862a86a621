#include "sim/engine/gaussian_queries.h"

#include <algorithm>
#include <cmath>

#include "sim/engine/mean_rotation.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// softmax(z), added to `sum`.
void add_softmax(const Eigen::VectorXd& z, Eigen::VectorXd& sum) {
  const Eigen::VectorXd p = (z.array() - z.maxCoeff()).exp().matrix();
  sum += p / p.sum();
}

}  // namespace

void score_by_gaussian_queries(const ScoreContext& context,
                               const std::function<GaussianQueries(std::int64_t query_head)>& queries, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const GroupSlots& slots = context.slots();
  const auto begin = static_cast<std::int64_t>(slots_below(slots, context.params.integer("sinks")));
  std::fill_n(out.s.begin(), begin, always_kept);
  const std::int64_t n = slots.size() - begin, dim = slots.head_dim;
  if (n == 0) return;

  const RopeSet& set =
      card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(context.layer)].rope_set)];
  const Array<double, 2> rotation = mean_rotation(set, dim, context.moment.tokens, context.params.integer("future"));
  const Matrix r = Eigen::Map<const Matrix>(rotation.data(), dim, dim);
  const Matrix k = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
                       slots.k.data() + begin * dim, n, dim)
                       .cast<double>();
  const auto scale = static_cast<double>(card.scale);
  Eigen::VectorXd sum = Eigen::VectorXd::Zero(n);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const GaussianQueries q = queries(context.first_query_head() + h);
    const Eigen::VectorXd mu = r * q.mean;
    Eigen::VectorXd z = scale * (k * mu);
    if (q.covariance.size() > 0) {
      const Matrix rotated = r * q.covariance * r.transpose();
      z += 0.5 * scale * scale * (k * rotated).cwiseProduct(k).rowwise().sum();
    }
    add_softmax(z, sum);
  }
  const bool vnorm = context.params.boolean("vnorm");
  const double eps = context.params.number("eps");
  for (std::int64_t i = 0; i < n; ++i) {
    double s = sum(i) / static_cast<double>(context.query_heads());
    if (vnorm) {
      double norm = 0;
      for (std::int64_t d = 0; d < dim; ++d) {
        const auto x = static_cast<double>(slots.v[static_cast<std::size_t>((begin + i) * dim + d)]);
        norm += x * x;
      }
      s = (s + eps) * std::sqrt(norm);
    }
    out.s[static_cast<std::size_t>(begin + i)] = static_cast<float>(s);
  }
}

}  // namespace kvgrind::sim
