// LoCoCo: what is not among the heavy hitters is mixed into a few slots by fitted convex weights.
//   of M kept slots the C = min(floor((1 − keep) · M), fitted slots) last in priority take part in the mixing; with all
//   that is dropped they are the n others, in order of position. x [n, ·] = k and v of each and its neighbours
//   W = softmax over the n others of relu(x wᵀ + b), one column a mixed slot (earlier slots: earlier columns)
//   slot c: K and V = Σ ((1 − nu) · [j = c] + nu · W_jc) · those of j; every dropped token counts once in all
//   in   tensors of layer l: "w l" [C, width · 2D], "b l" [C], "nu l" [1] of a calibration, shared by KV heads
//   source: arXiv 2406.05317; VITA-Group/LoCoCo memory_compressor.py (one layer of convolution)
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "sim/engine/neighbourhoods.h"
#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// [n, C]
Eigen::MatrixXd weights(const Calibration& fitted, std::int64_t layer, const GroupSlots& slots,
                        const std::vector<std::int32_t>& others, std::int64_t columns) {
  const std::string l = " " + std::to_string(layer);
  const CalibrationTensor& w = fitted.tensor("w" + l, {-1, -1});
  const CalibrationTensor& b = fitted.tensor("b" + l, {w.shape[0]});
  const std::int64_t width = w.shape[1] / (2 * slots.head_dim);
  const Array<float, 2> x = neighbourhoods(slots.keys(), slots.values(), others, width);
  const Eigen::Map<const Rows> rows(x.data(), x.extent(0), x.extent(1));
  const Eigen::Map<const Rows> filter(w.values.data(), w.shape[0], w.shape[1]);
  Eigen::MatrixXd z = (rows * filter.topRows(columns).transpose()).cast<double>();
  for (std::int64_t c = 0; c < columns; ++c) {
    z.col(c) = (z.col(c).array() + static_cast<double>(b.values[static_cast<std::size_t>(c)])).max(0.0).matrix();
    z.col(c) = (z.col(c).array() - z.col(c).maxCoeff()).exp().matrix();
    z.col(c) /= z.col(c).sum();
  }
  return z;
}

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  const auto& kept = context.selection.kept;
  const auto& order = context.selection.order;
  const auto all = static_cast<std::int64_t>(plan.keep.size()), m = static_cast<std::int64_t>(kept.size());
  if (m == all || m == 0) return;
  const Calibration& fitted = context.params.calibration("calib");
  const std::string l = " " + std::to_string(context.layer);
  const std::int64_t columns = std::min(
      static_cast<std::int64_t>(std::floor((1 - context.params.number("keep")) * static_cast<double>(m) + 1e-9)),
      fitted.tensor("w" + l, {-1, -1}).shape[0]);
  if (columns <= 0) return;
  std::vector<std::int32_t> mixed(order.begin() + (m - columns), order.begin() + m), others = mixed;
  std::sort(mixed.begin(), mixed.end());
  for (std::int32_t j = 0; j < static_cast<std::int32_t>(all); ++j)
    if (!plan.keep[static_cast<std::size_t>(j)]) others.push_back(j);
  std::sort(others.begin(), others.end());
  const Eigen::MatrixXd w = weights(fitted, context.layer, slots, others, columns);
  const double nu = std::clamp(static_cast<double>(fitted.tensor("nu" + l, {1}).values[0]), 0.0, 1.0);
  const Eigen::VectorXd shares = w.rowwise().sum();
  for (std::int64_t c = 0; c < columns; ++c) {
    const std::int32_t target = mixed[static_cast<std::size_t>(c)];
    for (std::size_t j = 0; j < others.size(); ++j) {
      const double part = w(static_cast<Eigen::Index>(j), c), own = others[j] == target ? 1 - nu : 0.0;
      const auto weight = static_cast<float>(own + nu * part);
      const bool dropped = !plan.keep[static_cast<std::size_t>(others[j])];
      const auto count = dropped ? static_cast<float>(part / shares(static_cast<Eigen::Index>(j))) : 0.0f;
      plan.merges.push_back({others[j], target, weight, weight, count});
    }
  }
}

}  // namespace

extern const ActRow mix;
const ActRow mix = {
    .name = "mix",
    .source = "arXiv 2406.05317; VITA-Group/LoCoCo",
    .help = "what is not among the heavy hitters is mixed into a few slots by fitted weights",
    .params = {{"keep", ParamType::number, "0.5", "share of the kept slots that stay as they are", 0, 1},
               {"calib", ParamType::calibration, "\"\"", "what kvgrind fit lococo wrote", -1e300, 1e300, {"lococo"}}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
