#include "replay/fit/fit_data.h"

#include <cmath>
#include <numeric>

#include "kernels/rope/rope.h"

namespace kvgrind::replay {
namespace {

Rows rows_of(const Array<float, 2>& x) { return Eigen::Map<const Rows>(x.data(), x.extent(0), x.extent(1)); }

}  // namespace

Rows FitSequence::keys(std::int64_t layer, std::int64_t kv_head) const {
  return rows_of(run->keys(id, layer, kv_head));
}
Rows FitSequence::values(std::int64_t layer, std::int64_t kv_head) const {
  return rows_of(run->values(id, layer, kv_head));
}
Rows FitSequence::queries(std::int64_t layer, std::int64_t head, std::int64_t first, std::int64_t n) const {
  return rows_of(source->queries(layer, head, first, n));
}

Rows FitSequence::unrotated(std::int64_t layer, std::int64_t first, Rows x) const {
  const ModelCard& card = run->card();
  std::vector<std::int64_t> position(static_cast<std::size_t>(x.rows()));
  std::iota(position.begin(), position.end(), first);
  const auto& set = card.rope[static_cast<std::size_t>(card.layer[static_cast<std::size_t>(layer)].rope_set)];
  kernels::rope_undo(set, position, View<float, 3>(x.data(), {x.rows(), 1, x.cols()}));
  return x;
}

Rows FitSequence::features(std::int64_t layer) const {
  const ModelCard& card = run->card();
  const std::int64_t dim = card.head_dim;
  Rows out(moment, (card.query_heads + 2 * card.kv_heads) * dim);
  for (std::int64_t h = 0; h < card.query_heads; ++h)
    out.middleCols(h * dim, dim) = unrotated(layer, 0, queries(layer, h, 0, moment));
  for (std::int64_t g = 0; g < card.kv_heads; ++g) {
    out.middleCols((card.query_heads + g) * dim, dim) = unrotated(layer, 0, keys(layer, g).topRows(moment));
    out.middleCols((card.query_heads + card.kv_heads + g) * dim, dim) = values(layer, g).topRows(moment);
  }
  return out;
}

Rows causal_attention(const ModelCard& card, std::int64_t layer, const Rows& q, std::int64_t first, const Rows& k) {
  Rows p = card.scale * (q * k.transpose());
  const std::int64_t window = card.layer[static_cast<std::size_t>(layer)].window;
  for (Eigen::Index i = 0; i < p.rows(); ++i) {
    const std::int64_t end = first + i + 1, begin = window > 0 ? std::max<std::int64_t>(0, end - window) : 0;
    auto row = p.row(i);
    if (card.softcap > 0) row = (row.array() / card.softcap).tanh().matrix() * card.softcap;
    const float top = row.segment(begin, end - begin).maxCoeff();
    row = (row.array() - top).exp().matrix();
    row.head(begin).setZero();
    row.tail(row.size() - end).setZero();
    row /= row.sum();
  }
  return p;
}

}  // namespace kvgrind::replay
