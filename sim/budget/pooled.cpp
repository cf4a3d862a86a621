// One pool: the slots of all layers and heads compete for what the amount gives all of them together (KVzip).
//   in   scores s of all groups; S = tokens a group, N = Σ S, keep = the amount, n = `reserve` slots a group that
//        something else takes from the same budget
//   out  the best scores of all, ties: lower layer, head, position; floor(N · keep + 1e-9) − n · groups of them
//        a removed ratio r: R = min(1, r + n/S), N − int(N · R), with whole=kept int(N · (1 − R))
//        keep=1 keeps everything, whatever n; over=layer: the same within each layer
//   rounding=official: a slot stays when its score is above the k-th best, k = max(int(N · keep), 1): ties go
//   source: arXiv 2505.23416; snu-mllab/KVzip attention/score.py; NVIDIA/kvpress kvzip_press.py, restorekv_press.py
#include <algorithm>
#include <cmath>

#include "sim/budget/rounding.h"
#include "sim/engine/share_out.h"

namespace kvgrind::sim::budgets {
namespace {

struct Pool {
  std::int64_t tokens = 0, visible = 0, kept = 0;
};

Pool pool_of(const BudgetContext& context, const std::vector<BudgetGroup>& groups) {
  Pool out;
  double real = 0;
  std::int64_t base = 0;
  for (const BudgetGroup& group : groups) {
    out.tokens += group.tokens;
    out.visible += group.visible;
    base += group.base;
    real += group.base_real;
  }
  const auto count = static_cast<std::int64_t>(groups.size()), reserve = context.params.integer("reserve");
  const auto n = static_cast<double>(out.tokens);
  switch (context.amount.kind) {
    case Amount::Kind::removed: {
      const double slots = static_cast<double>(reserve) * static_cast<double>(count) / std::max(n, 1.0);
      const double removed = context.amount.value > 0 ? std::min(1.0, context.amount.value + slots) : 0.0;
      if (context.params.word("whole") == "kept") {
        out.kept = static_cast<std::int64_t>(n * (1 - removed));
        return out;
      }
      out.kept = out.tokens - static_cast<std::int64_t>(n * removed);
      return out;
    }
    case Amount::Kind::fraction:
      out.kept = static_cast<std::int64_t>(std::floor(real + 1e-9));
      break;
    default:
      out.kept = base;
  }
  if (out.kept < out.tokens) out.kept = std::max<std::int64_t>(0, out.kept - reserve * count);
  return out;
}

void allocate_pool(const BudgetContext& context, std::vector<BudgetGroup>& groups) {
  const Pool pool = pool_of(context, groups);
  std::vector<std::int64_t> kept;
  if (context.params.word("rounding") == "official" && pool.kept < std::min(pool.tokens, pool.visible)) {
    std::vector<float> all;
    for (const BudgetGroup& group : groups) all.insert(all.end(), group.scores.begin(), group.scores.end());
    std::sort(all.begin(), all.end(), [](float a, float b) { return !std::isnan(a) && (std::isnan(b) || a > b); });
    const float level = all.empty() ? 0.0f : all[static_cast<std::size_t>(std::max<std::int64_t>(pool.kept - 1, 0))];
    for (const BudgetGroup& group : groups)
      kept.push_back(std::count_if(group.scores.begin(), group.scores.end(), [&](float s) { return s > level; }));
  } else {
    kept = share_out(groups, std::vector<std::int64_t>(groups.size(), 0), std::min(pool.kept, pool.visible));
  }
  for (std::size_t g = 0; g < groups.size(); ++g) groups[g].kept = kept[g];
}

void allocate(const BudgetContext& context) {
  if (context.params.word("over") == "model") return allocate_pool(context, context.groups);
  for (auto first = context.groups.begin(); first != context.groups.end();) {
    const auto last = std::find_if(first, context.groups.end(),
                                   [&](const BudgetGroup& group) { return group.layer != first->layer; });
    std::vector<BudgetGroup> layer(first, last);
    allocate_pool(context, layer);
    first = std::copy(layer.begin(), layer.end(), first);
  }
}

}  // namespace

extern const BudgetRow pooled;
const BudgetRow pooled = {
    .name = "pooled",
    .source = "arXiv 2505.23416; snu-mllab/KVzip; NVIDIA/kvpress kvzip_press.py",
    .help = "slots of all layers and heads compete for one budget",
    .params = {{"over", ParamType::word, "model", "what competes", -1e300, 1e300, {"model", "layer"}},
               {"reserve", ParamType::integer, "0", "slots a group that something else takes of the budget", 0, 1e6},
               {"whole",
                ParamType::word,
                "removed",
                "which side of a removed ratio is cut to a whole number",
                -1e300,
                1e300,
                {"removed", "kept"}},
               rounding_row("official: what is above the k-th best score, one fewer")},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::threshold,
    .allocate = allocate,
};

}  // namespace kvgrind::sim::budgets
