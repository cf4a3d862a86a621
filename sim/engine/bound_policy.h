// The inside of a bound policy: six calls, each a row of a table with every parameter filled.
#pragma once
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

using RowPtr = std::variant<const ScoreRow*, const BudgetRow*, const SelectRow*, const ActRow*, const ScheduleRow*,
                            const ReadRow*>;

struct BoundCall {
  RowPtr row;
  Params params;

  std::string name() const;
  const std::vector<ParamRow>& param_rows() const;
  std::string text() const;  // canonical
};

struct Params::Entry {
  const ParamRow* row = nullptr;
  Value value;                   // as printed
  double number = 0;             // integer, number, boolean (0 or 1)
  std::vector<BoundCall> calls;  // call (one), list of calls
  std::vector<double> numbers;   // list of numbers
  std::shared_ptr<const Calibration> calibration;
};

class BoundPolicy {
 public:
  BoundCall score, budget, select, act, schedule, read;
  std::string typed, canonical;
  std::optional<Amount> amount;
  std::optional<CountClass> declared_count;  // of a preset's card
  std::string approximated;                  // of a preset's card: what the open loop leaves out

  std::string print() const;  // the canonical line of the six calls
  const ScoreRow& score_row() const { return *std::get<const ScoreRow*>(score.row); }
  const BudgetRow& budget_row() const { return *std::get<const BudgetRow*>(budget.row); }
  const SelectRow& select_row() const { return *std::get<const SelectRow*>(select.row); }
  const ActRow& act_row() const { return *std::get<const ActRow*>(act.row); }
  const ScheduleRow& schedule_row() const { return *std::get<const ScheduleRow*>(schedule.row); }
  const ReadRow& read_row() const { return *std::get<const ReadRow*>(read.row); }
};

// Names the fit that a policy lacks. Error(usage).
[[noreturn]] void refuse_without_calibration(const Params::Entry& entry);
// Binds one call in a slot ("score" …); what is wrong is shown by a caret in `whole`. Error(usage).
BoundCall bind_call(const std::string& slot, const Call& call, std::string_view whole);
// Checks one value against a parameter and gives it back in canonical form. Error(usage).
Value check_value(const ParamRow& row, const Value& value, std::string_view whole);
// "found … at column 7, expected …; did you mean …?" with a caret in `whole`. Error(usage).
[[noreturn]] void refuse(std::string_view whole, std::size_t column, const std::string& found,
                         const std::string& expected, const std::string& near = "");
// A whole line; missing slots are filled with defaults.
BoundPolicy bind_line(std::string_view text);

}  // namespace kvgrind::sim
