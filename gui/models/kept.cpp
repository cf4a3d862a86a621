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

std::array<std::int32_t, 48> count_states(const KeptBand& band, std::int64_t group, std::int64_t begin,
                                          std::int64_t end) {
  std::array<std::int32_t, 48> out{};
  for (std::int64_t t = std::max<std::int64_t>(0, begin); t < std::min(end, band.seen); ++t)
    ++out[std::min<std::size_t>(band.state(group, t), out.size() - 1)];
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
