// GUI-KV: of older images, what adds least to the newest one counts nothing; then the best scores.
//   β = budget / slots; of the n slots with a residual the floor((1 − β) · n) smallest get score 0
//   source: arXiv 2510.00536; SalesforceAIResearch/GUI-KV gui_kv/gui_kv_utils.py
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"
#include "sim/engine/priority.h"

namespace kvgrind::sim::selects {
namespace {

Selection select(const SelectContext& context) {
  const std::vector<float>& residual = context.columns.extra.find("residual")->second;
  std::vector<float> s = context.columns.s;
  std::vector<std::size_t> old;
  for (std::size_t j = 0; j < residual.size(); ++j)
    if (!std::isnan(residual[j])) old.push_back(j);
  std::stable_sort(old.begin(), old.end(), [&](std::size_t a, std::size_t b) { return residual[a] < residual[b]; });
  const double beta = static_cast<double>(context.budget) / static_cast<double>(std::max<std::size_t>(1, s.size()));
  const auto zeroed = static_cast<std::size_t>(std::max(0.0, (1 - beta) * static_cast<double>(old.size()) + 1e-9));
  for (std::size_t i = 0; i < std::min(zeroed, old.size()); ++i)
    if (!std::isinf(s[old[i]])) s[old[i]] = 0.0f;
  return take_first(priority_order(context.slots, s, {}, context.nan_scores), context.budget);
}

}  // namespace

extern const SelectRow distinct;
const SelectRow distinct = {
    .name = "distinct",
    .source = "arXiv 2510.00536; SalesforceAIResearch/GUI-KV",
    .help = "the best scores, where what older images repeat counts nothing",
    .params = {},
    .columns = {"residual"},
    .count = CountClass::exact,
    .select = select,
};

}  // namespace kvgrind::sim::selects
