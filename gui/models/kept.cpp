#include "gui/models/kept.h"

#include <algorithm>

#include "gui/models/colours.h"

namespace kvgrind::gui {

KeptBand kept_band(const ShownJob& job, std::int64_t seen, std::int64_t tokens) {
  KeptBand out{.name = job.name, .colour = job.colour, .tokens = tokens, .states = {}};
  if (!job.view) return out;
  const replay::Timeline& timeline = job.view->timeline;
  const replay::TimelineStep* step = timeline.at(seen < 0 ? tokens : seen);
  if (step) {
    out.layers = timeline.layers;
    out.heads = timeline.heads;
    out.seen = step->seen;
    out.states = *step->k_states;
    return out;
  }
  const auto& states = job.view->outcome.k_states;
  out.layers = static_cast<std::int64_t>(states.size());
  out.heads = states.empty() ? 0 : static_cast<std::int64_t>(states[0].size());
  for (const auto& layer : states)
    for (const auto& head : layer) {
      out.seen = static_cast<std::int64_t>(head.size());
      out.states.insert(out.states.end(), head.begin(), head.end());
    }
  return out;
}

Table kept_table(const std::vector<KeptBand>& bands) {
  Table out{.header = {"job", "seen", "layer", "head", "position", "state"}, .rows = {}};
  for (const KeptBand& band : bands)
    for (std::int64_t g = 0; g < band.groups(); ++g)
      for (std::int64_t t = 0; t < band.seen; ++t)
        out.rows.push_back({band.name, std::to_string(band.seen), std::to_string(g / band.heads),
                            std::to_string(g % band.heads), std::to_string(t), state_name(band.state(g, t))});
  return out;
}

std::size_t StepBand::line_of(std::int64_t asked) const {
  if (asked < 0 || seen.empty()) return seen.empty() ? 0 : seen.size() - 1;
  const auto after = std::upper_bound(seen.begin(), seen.end(), asked) - seen.begin();
  return static_cast<std::size_t>(std::max<std::ptrdiff_t>(1, after) - 1);
}

StepBand step_band(const ShownJob& job, std::int64_t layer, std::int64_t query_head, std::int64_t query_heads,
                   std::int64_t tokens) {
  StepBand out{.name = job.name, .colour = job.colour, .layer = layer, .tokens = tokens, .seen = {}, .states = {}};
  const auto add = [&](const std::uint8_t* states, std::int64_t seen) {
    out.seen.push_back(seen);
    out.states.insert(out.states.end(), states, states + seen);
    out.states.resize(out.seen.size() * static_cast<std::size_t>(tokens), 255);
  };
  if (!job.view) return out;
  const replay::Timeline& timeline = job.view->timeline;
  for (const replay::TimelineStep& step : timeline.steps) {
    if (!step.k_states || timeline.heads == 0 || layer >= timeline.layers) continue;
    out.heads = timeline.heads;
    out.head = query_head * timeline.heads / std::max<std::int64_t>(1, query_heads);
    add(step.k_states->data() + (layer * timeline.heads + out.head) * step.seen, step.seen);
  }
  const auto& states = job.view->outcome.k_states;
  if (out.seen.empty() && layer < static_cast<std::int64_t>(states.size())) {
    const auto& heads = states[static_cast<std::size_t>(layer)];
    out.heads = static_cast<std::int64_t>(heads.size());
    out.head = query_head * out.heads / std::max<std::int64_t>(1, query_heads);
    const auto& own = heads[static_cast<std::size_t>(out.head)];
    add(own.data(), static_cast<std::int64_t>(own.size()));
  }
  return out;
}

Table step_table(const std::vector<StepBand>& bands) {
  Table out{.header = {"job", "seen", "layer", "head", "position", "state"}, .rows = {}};
  for (const StepBand& band : bands)
    for (std::size_t line = 0; line < band.seen.size(); ++line)
      for (std::int64_t t = 0; t < band.seen[line]; ++t)
        out.rows.push_back({band.name, std::to_string(band.seen[line]), std::to_string(band.layer),
                            std::to_string(band.head), std::to_string(t), state_name(band.state(line, t))});
  return out;
}

BudgetGrid budget_grid(const ShownJob& job) {
  BudgetGrid out{.name = job.name, .slots = {}};
  if (!job.view || job.view->timeline.steps.empty()) return out;
  const replay::Timeline& timeline = job.view->timeline;
  out.layers = timeline.layers;
  out.heads = timeline.heads;
  out.seen = timeline.steps[timeline.compressed].seen;
  out.slots = timeline.steps[timeline.compressed].slots;
  return out;
}

Table budget_table(const std::vector<BudgetGrid>& grids) {
  Table out{.header = {"job", "layer", "head", "kept_tokens", "seen_tokens"}, .rows = {}};
  for (const BudgetGrid& grid : grids)
    for (std::int64_t l = 0; l < grid.layers; ++l)
      for (std::int64_t h = 0; h < grid.heads; ++h)
        out.rows.push_back({grid.name, std::to_string(l), std::to_string(h), std::to_string(grid.at(l, h)),
                            std::to_string(grid.seen)});
  return out;
}

}  // namespace kvgrind::gui
