// What `kvgrind validate` says: Markdown for people, CSV and SVG for papers, JSON that other commands show beside
// open-loop claims for that model.
#pragma once
#include <string>
#include <vector>

#include "core/json.h"
#include "replay/validate/agreement.h"

namespace kvgrind::replay {

struct TaskValidation {
  std::string task;  // "needle@1024, blind"
  std::int64_t prompts = 0, methods = 0, amounts = 0;
  bool prose = false;
  double truth_full = 0;  // mean probability of the right token with the full cache
  std::vector<Cell> cells;
  std::vector<Agreement> agreements;
  std::vector<Decision> decisions;
};

struct Validation {
  std::string model_name, model_hash, command;
  std::string headline;     // the figure shown first, e.g. "predicted_dprob.answer"
  std::string null_figure;  // removed bytes alone
  std::vector<TaskValidation> tasks;
};

std::string validation_markdown(const Validation& validation);
std::string validation_csv(const Validation& validation);        // one row per task × figure × amount
std::string validation_cells_csv(const Validation& validation);  // one row per task × cell: truth and every figure
std::string validation_svg(const Validation& validation);        // scatter of headline against truth, a panel per task
json::value trust_block(const Validation& validation);           // {"schema":"kvgrind.trust/1",…}

// The figure with the highest pooled correlation on a task, and that correlation.
const Agreement* best_figure(const TaskValidation& task);

}  // namespace kvgrind::replay
