#include "gui/models/result_budgets.h"

#include <algorithm>
#include <map>
#include <set>

namespace kvgrind::gui {

ResultBudgets result_budgets(const std::vector<traces::ResultRow>& rows) {
  ResultBudgets out;
  std::set<std::string> policies;
  std::map<std::string, double> budgets;  // asked, and what it means as a share for the order
  for (const traces::ResultRow& row : rows) {
    if (row.status != "ok") continue;
    policies.insert(row.preset);
    budgets.try_emplace(row.budget_asked, row.budget_keep      ? *row.budget_keep
                                          : row.budget_removed ? 1 - *row.budget_removed
                                                               : row.kept_frac);
  }
  out.policies.assign(policies.begin(), policies.end());
  for (const auto& [asked, share] : budgets) out.budgets.push_back(asked);
  std::stable_sort(out.budgets.begin(), out.budgets.end(),
                   [&](const std::string& a, const std::string& b) { return budgets.at(a) < budgets.at(b); });
  out.cells.resize(out.policies.size() * out.budgets.size());
  for (const traces::ResultRow& row : rows) {
    if (row.status != "ok") continue;
    const auto p = std::lower_bound(out.policies.begin(), out.policies.end(), row.preset) - out.policies.begin();
    const auto b = std::find(out.budgets.begin(), out.budgets.end(), row.budget_asked) - out.budgets.begin();
    BudgetCell& cell = out.cells[static_cast<std::size_t>(p) * out.budgets.size() + static_cast<std::size_t>(b)];
    cell.least = cell.jobs == 0 ? row.kept_tokens_min : std::min(cell.least, row.kept_tokens_min);
    cell.most = std::max(cell.most, row.kept_tokens_max);
    cell.kept_frac += row.kept_frac;
    cell.stored_frac += row.stored_frac;
    cell.kept_mean += row.kept_tokens_mean;
    ++cell.jobs;
  }
  for (BudgetCell& cell : out.cells)
    for (double* sum : {&cell.kept_frac, &cell.stored_frac, &cell.kept_mean})
      *sum /= static_cast<double>(std::max<std::int64_t>(1, cell.jobs));
  return out;
}

Table result_budgets_table(const ResultBudgets& budgets) {
  Table out{.header = {"policy", "budget_asked", "kept_frac", "stored_frac", "kept_tokens_mean", "kept_tokens_min",
                       "kept_tokens_max", "jobs"},
            .rows = {}};
  for (std::size_t p = 0; p < budgets.policies.size(); ++p)
    for (std::size_t b = 0; b < budgets.budgets.size(); ++b) {
      const BudgetCell& cell = budgets.at(p, b);
      if (cell.jobs == 0) continue;
      out.rows.push_back({budgets.policies[p], budgets.budgets[b], number(cell.kept_frac), number(cell.stored_frac),
                          number(cell.kept_mean), std::to_string(cell.least), std::to_string(cell.most),
                          std::to_string(cell.jobs)});
    }
  return out;
}

}  // namespace kvgrind::gui
