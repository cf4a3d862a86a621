// What policies were asked to keep and what they did keep, from result rows.
#pragma once
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "replay/session.h"

namespace kvgrind::gui {

struct BudgetCell {
  std::int64_t jobs = 0, least = 0, most = 0;            // tokens kept in a layer and head
  double kept_frac = 0, stored_frac = 0, kept_mean = 0;  // means over jobs
};
struct ResultBudgets {
  std::vector<std::string> policies, budgets;  // as typed, by name; as asked, ascending
  std::vector<BudgetCell> cells;               // [policies · budgets]; no jobs: not run
  const BudgetCell& at(std::size_t policy, std::size_t budget) const { return cells[policy * budgets.size() + budget]; }
};
ResultBudgets result_budgets(const std::vector<traces::ResultRow>& rows);
Table result_budgets_table(const ResultBudgets& budgets);

}  // namespace kvgrind::gui
