// Ridge leverage of pre-RoPE keys: a key is needed where the others cannot rebuild it.
//   in   k of the slots with the rotation undone, X = K° − mean; sketch = m > 0: X ← XΦ, Φ [D, m] normal entries / √m,
//        counter-based, drawn anew for every layer and head
//   out  s [slots] = max(0, x (XᵀX + ridge·I)⁻¹ xᵀ); ridge × 10 when the factorisation fails, at most 5 times
//   chunk > 0: mean and XᵀX of consecutive stretches of that many slots
//   source: arXiv 2507.08143; vnchari/compactor-vllm compactor.py; NVIDIA/kvpress leverage_press.py; deviations: double
//   precision, a reproducible sketch
#include <Eigen/Cholesky>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/rng.h"
#include "sim/engine/pre_rope.h"

namespace kvgrind::sim::scores {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

double uniform(const ScoreContext& context, std::uint64_t counter) {
  return static_cast<double>(
      random_uniform({context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer),
                      static_cast<std::int32_t>(context.group), "leverage"},
                     static_cast<std::int64_t>(counter)));
}

Matrix sketch(const ScoreContext& context, std::int64_t dim, std::int64_t m) {
  Matrix out(dim, m);
  for (std::int64_t i = 0; i < dim * m; ++i) {
    const auto at = static_cast<std::uint64_t>(2 * i);
    const double radius = std::sqrt(-2 * std::log(1 - uniform(context, at)));
    out.data()[i] = radius * std::cos(2 * std::numbers::pi * uniform(context, at + 1)) / std::sqrt(double(m));
  }
  return out;
}

void leverage_of(Matrix x, double ridge, std::span<float> out) {
  x.rowwise() -= x.colwise().mean().eval();
  // The smaller of the two products: x (XᵀX + r)⁻¹ xᵀ is the diagonal of XXᵀ (XXᵀ + r)⁻¹.
  const bool wide = x.cols() > x.rows();
  const Matrix gram = wide ? Matrix(x * x.transpose()) : Matrix(x.transpose() * x);
  for (int attempt = 0; attempt < 5; ++attempt, ridge *= 10) {
    const Eigen::LLT<Matrix> factor(gram + ridge * Matrix::Identity(gram.rows(), gram.cols()));
    if (factor.info() != Eigen::Success) continue;
    const Matrix solved = wide ? Matrix(factor.solve(gram)) : Matrix(factor.solve(x.transpose()).transpose());
    for (Eigen::Index j = 0; j < x.rows(); ++j)
      out[static_cast<std::size_t>(j)] =
          static_cast<float>(std::max(0.0, wide ? solved(j, j) : x.row(j).dot(solved.row(j))));
    return;
  }
  throw Error(Category::usage, {.doing = "scoring by leverage",
                                .found = "keys whose products cannot be factorised",
                                .expected = "finite keys, or a larger ridge"});
}

void score(const ScoreContext& context, Columns& out) {
  const std::int64_t n = context.slots().size(), dim = context.slots().head_dim;
  if (n == 0) return;
  const Array<float, 2> keys = pre_rope_keys(context);
  Matrix x =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(keys.data(), n, dim)
          .cast<double>();
  if (!x.allFinite()) {
    std::fill(out.s.begin(), out.s.end(), std::nanf(""));
    return;
  }
  const std::int64_t m = context.params.integer("sketch");
  if (m > 0) x = (x * sketch(context, dim, m)).eval();
  const std::int64_t chunk = context.params.integer("chunk") > 0 ? context.params.integer("chunk") : n;
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    const std::int64_t count = std::min(chunk, n - begin);
    leverage_of(x.middleRows(begin, count), context.params.number("ridge"),
                std::span(out.s).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
  }
}

}  // namespace

extern const ScoreRow leverage;
const ScoreRow leverage = {
    .name = "leverage",
    .source = "arXiv 2507.08143; vnchari/compactor-vllm compactor.py; NVIDIA/kvpress leverage_press.py",
    .help = "keys that the others cannot rebuild",
    .params = {{"sketch", ParamType::integer, "48", "dimensions of a random projection; 0 = none", 0, 4096},
               {"ridge", ParamType::number, "0.01", "added to the diagonal", 1e-12, 1e6},
               {"chunk", ParamType::integer, "0", "slots scored together; 0 = all", 0, 1e9}},
    .needs = {},
    .score = score,
};

}  // namespace kvgrind::sim::scores
