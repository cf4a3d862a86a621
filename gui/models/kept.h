// What became of every token in every group of a job's cache, at one step.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "gui/models/table.h"
#include "gui/models/view_input.h"

namespace kvgrind::gui {

inline bool is_kept(std::uint8_t state) { return state % 16 != 0 && state % 16 != 5; }

// The job's groups at a step, by (layer, cache head).
struct KeptBand {
  std::string name;
  std::size_t colour = 0;
  std::int64_t layers = 0, heads = 0, seen = 0, tokens = 0;
  std::vector<std::uint8_t> states;  // [layers · heads][seen]
  std::uint8_t state(std::int64_t group, std::int64_t token) const {
    return states[static_cast<std::size_t>(group * seen + token)];
  }
  std::int64_t groups() const { return layers * heads; }
};
// seen < 0: the last step. Falls back to the states after the last token where no timeline was kept.
KeptBand kept_band(const ShownJob& job, std::int64_t seen, std::int64_t tokens);

Table kept_table(const std::vector<KeptBand>& bands);

// One group of a job's cache at every step whose states were kept: a line a step.
struct StepBand {
  std::string name;
  std::size_t colour = 0;
  std::int64_t layer = 0, head = 0, heads = 0, tokens = 0;  // head of the cache
  std::vector<std::int64_t> seen;                           // tokens seen at each line, ascending
  std::vector<std::uint8_t> states;                         // [lines][tokens]; 255 = not seen yet
  std::uint8_t state(std::size_t line, std::int64_t token) const {
    return states[line * static_cast<std::size_t>(tokens) + static_cast<std::size_t>(token)];
  }
  // The line that shows what held after `seen` tokens (below 0: the last).
  std::size_t line_of(std::int64_t seen) const;
};
// Of a job without a timeline: one line, after the last token.
StepBand step_band(const ShownJob& job, std::int64_t layer, std::int64_t query_head, std::int64_t query_heads,
                   std::int64_t tokens);
Table step_table(const std::vector<StepBand>& bands);

// Tokens kept per (layer, cache head) just after compression (as plans hold them).
struct BudgetGrid {
  std::string name;
  std::int64_t layers = 0, heads = 0, seen = 0;
  std::vector<std::int32_t> slots;  // [layers · heads]
  std::int32_t at(std::int64_t layer, std::int64_t head) const {
    return slots[static_cast<std::size_t>(layer * heads + head)];
  }
};
BudgetGrid budget_grid(const ShownJob& job);
Table budget_table(const std::vector<BudgetGrid>& grids);

}  // namespace kvgrind::gui
