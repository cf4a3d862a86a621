// CriticalKV: a second score beside another one, weighted by the norm of the projected value.
//   in   of = any score s; values of the slots, W_O
//   out  s [slots] = the inner score; column `second` = (s + eps) · n, n = mean over the group's query heads of
//        ‖W_O,h v‖₁; slots that the inner score protects stay protected in both
//   source: arXiv 2502.03805; NVIDIA/kvpress criticalkv_press.py
#include <Eigen/Core>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void score(const ScoreContext& context, Columns& out) {
  context.evaluate(context.params.call("of"), out);
  const GroupSlots& slots = context.slots();
  const Array<float, 2>& w = context.signals.output_projection(context.layer);  // [hidden, Hq·D]
  const std::int64_t n = slots.size(), dim = slots.head_dim;
  const Eigen::Map<const Rows> v(slots.v.data(), n, dim), projection(w.data(), w.extent(0), w.extent(1));
  Eigen::VectorXd norm = Eigen::VectorXd::Zero(n);
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const auto head = projection.middleCols((context.first_query_head() + h) * dim, dim);
    norm += (v * head.transpose()).cwiseAbs().rowwise().sum().cast<double>();
  }
  norm /= static_cast<double>(context.query_heads());
  const double eps = context.params.number("eps");
  std::vector<float> second(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j) {
    const float s = out.s[static_cast<std::size_t>(j)];
    second[static_cast<std::size_t>(j)] =
        std::isinf(s) ? s : static_cast<float>((static_cast<double>(s) + eps) * norm(j));
  }
  out.extra["second"] = std::move(second);
}

}  // namespace

extern const ScoreRow projected_value;
const ScoreRow projected_value = {
    .name = "projected_value",
    .source = "arXiv 2502.03805; NVIDIA/kvpress criticalkv_press.py",
    .help = "a score and, as second column, the score times the norm of the projected value",
    .params = {{"of", ParamType::call, "window_attention", "the first score", -1e300, 1e300, {"score"}},
               {"eps", ParamType::number, "0.0001", "added to the score before the norm", 0, 1e6}},
    .needs = {Signal::output_projection},
    .score = score,
    .gives = {"second"},
};

}  // namespace kvgrind::sim::scores
