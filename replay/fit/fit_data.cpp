#include "replay/fit/fit_data.h"

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kernels/rope/rope.h"
#include "sim/engine/primitive.h"

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

FitCache::FitCache(const FitSequence& sequence) : sequence_(sequence), cache_(sequence.run->card()) {
  const ModelCard& card = sequence.run->card();
  const std::int64_t n = sequence.moment, dim = card.head_dim;
  for (std::int64_t l = 0; l < card.layers; ++l) {
    Array<float, 3> k({n, card.kv_heads, dim}), v({n, card.kv_heads, dim});
    for (std::int64_t g = 0; g < card.kv_heads; ++g) {
      const Rows keys = sequence.keys(l, g), values = sequence.values(l, g);
      for (std::int64_t t = 0; t < n; ++t)
        for (std::int64_t d = 0; d < dim; ++d) {
          k(t, g, d) = keys(t, d);
          v(t, g, d) = values(t, d);
        }
    }
    cache_.append(l, 0, k.view(), v.view());
  }
}

std::vector<float> FitCache::scores(const sim::BoundCall& score, std::int64_t layer, std::int64_t kv_head) const {
  if (std::get<const sim::ScoreRow*>(score.row)->join)
    throw Error(Category::usage, {.doing = "fitting",
                                  .on = std::string(score.name()),
                                  .found = "a score that joins heads or layers",
                                  .expected = "one that each head has of its own"});
  const sim::Amount amount;
  const sim::RunFacts facts{.card = &sequence_.run->card(), .amount = &amount};
  const sim::Moment moment{.tokens = sequence_.moment, .compress = true};
  sim::Memory memory;
  const sim::Params none;
  const sim::ScoreContext context{none, facts, moment, *sequence_.source, cache_, layer, kv_head, memory};
  sim::Columns columns;
  context.evaluate(score, columns);
  return columns.s;
}

std::vector<double> future_mass(const FitSequence& sequence, std::int64_t layer, std::int64_t kv_head) {
  const ModelCard& card = sequence.run->card();
  const auto [begin, end] = sequence.future();
  std::vector<double> out(static_cast<std::size_t>(sequence.moment));
  if (begin >= end) return out;
  const Rows k = sequence.keys(layer, kv_head);
  for (std::int64_t h = kv_head * card.group(); h < (kv_head + 1) * card.group(); ++h) {
    const Rows p = causal_attention(card, layer, sequence.queries(layer, h, begin, end - begin), begin, k);
    const Eigen::VectorXd sum = p.leftCols(sequence.moment).cast<double>().colwise().sum();
    for (std::size_t j = 0; j < out.size(); ++j)
      out[j] += sum(static_cast<Eigen::Index>(j)) / static_cast<double>((end - begin) * card.group());
  }
  return out;
}

}  // namespace kvgrind::replay
