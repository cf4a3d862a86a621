// A dropped token's value is folded into the kept slot with the most similar key; keys stay as they are.
//   c = max over kept slots of cos(k_e, k_t), t its slot (ties: lower position); where c ≥ least:
//   w = max(c, 0)·‖v_e‖ / (‖v_e‖ + ‖v_t‖ + 1e-6);  v_t ← (v_t + Σ w v_e) / (1 + Σ w); norms of the original values
//   source: NVIDIA/kvpress merging_press.py
#include <Eigen/Core>
#include <algorithm>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::acts {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void act(const ActContext& context, GroupPlan& plan) {
  const GroupSlots& slots = context.slots();
  const double least = context.params.number("least");
  const std::int64_t n = slots.size(), dim = slots.head_dim;
  const auto& kept = context.selection.kept;
  Rows k = Eigen::Map<const Rows>(slots.k.data(), n, dim);
  k.array().colwise() /= k.rowwise().norm().cwiseMax(1e-12f).array();
  const Eigen::VectorXf v_norm = Eigen::Map<const Rows>(slots.v.data(), n, dim).rowwise().norm();
  Rows targets(static_cast<Eigen::Index>(kept.size()), dim);
  for (std::size_t t = 0; t < kept.size(); ++t) targets.row(static_cast<Eigen::Index>(t)) = k.row(kept[t]);
  std::vector<double> weight(static_cast<std::size_t>(n));
  std::vector<MergeTerm> terms;
  for (std::int64_t e = 0; e < n; ++e) {
    if (plan.keep[static_cast<std::size_t>(e)]) continue;
    if (kept.empty()) continue;
    Eigen::Index at = 0;
    const double best = (targets * k.row(e).transpose()).maxCoeff(&at);  // the first of equals: lower position
    const std::int32_t target = kept[static_cast<std::size_t>(at)];
    if (best < least) continue;
    const double own = v_norm(e);
    const double w = std::max(best, 0.0) * own / (own + v_norm(target) + 1e-6);
    weight[static_cast<std::size_t>(target)] += w;
    terms.push_back({static_cast<std::int32_t>(e), target, 0.0f, static_cast<float>(w), 1.0f});
  }
  std::vector<char> self(static_cast<std::size_t>(n));
  for (MergeTerm& term : terms) {
    const double total = 1 + weight[static_cast<std::size_t>(term.into)];
    term.v_weight = static_cast<float>(term.v_weight / total);
    if (!self[static_cast<std::size_t>(term.into)]) {
      self[static_cast<std::size_t>(term.into)] = 1;
      plan.merges.push_back({term.into, term.into, 1.0f, static_cast<float>(1 / total), 0.0f});
    }
  }
  plan.merges.insert(plan.merges.end(), terms.begin(), terms.end());
}

}  // namespace

extern const ActRow merge_values;
const ActRow merge_values = {
    .name = "merge_values",
    .source = "NVIDIA/kvpress merging_press.py",
    .help = "values of dropped tokens are folded into the slot with the most similar key",
    .params = {{"least", ParamType::number, "0", "cosine below which a token is dropped without merging", -1, 1}},
    .needs = {},
    .act = act,
};

}  // namespace kvgrind::sim::acts
