#include "sim/engine/probe_scores.h"

#include <fmt/format.h>

#include <Eigen/Core>

#include "core/error.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// ‖W_O,h v‖₂ of every slot.
std::vector<float> value_norms(const ScoreContext& context, std::int64_t query_head) {
  const GroupSlots& slots = context.slots();
  const Array<float, 2>& w = context.signals.output_projection(context.layer);  // [hidden, Hq·D]
  const Eigen::Map<const Rows> v(slots.v.data(), slots.size(), slots.head_dim),
      projection(w.data(), w.extent(0), w.extent(1));
  const Eigen::VectorXf norm =
      (v * projection.middleCols(query_head * slots.head_dim, slots.head_dim).transpose()).rowwise().norm();
  return {norm.data(), norm.data() + norm.size()};
}

}  // namespace

std::vector<float> probe_scores(const ScoreContext& context, const ProbeScore& what) {
  const GroupSlots& slots = context.slots();
  const auto n = static_cast<std::size_t>(slots.size());
  std::vector<float> out(n, always_kept);
  const std::int64_t heads = context.query_heads();
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t head = context.first_query_head() + h;
    const std::vector<ProbeColumns> passes = context.signals.probes(context.layer, head, what.kind);
    const std::vector<float> norms = what.values ? value_norms(context, head) : std::vector<float>();
    if (what.number >= static_cast<std::int64_t>(passes.size()))
      throw Error(Category::usage,
                  {.doing = fmt::format("reading signal {}", signal_name(what.kind)),
                   .found = fmt::format("no signal of pass {}, there are {}", what.number, passes.size()),
                   .expected = "one of them, counted from 0, or -1 for all"});
    std::vector<float> column(n, always_kept);  // of this head
    for (const ProbeColumns& pass : passes) {
      if (what.number >= 0 && pass.number != what.number) continue;
      const std::vector<float>& values = pass.of(what.statistic);
      for (std::size_t j = slots_below(slots, pass.begin); j < n && slots.position[j] < pass.end; ++j) {
        const float p =
            values[static_cast<std::size_t>(slots.position[j] - pass.begin)] * (what.values ? norms[j] : 1.0f);
        column[j] = column[j] == always_kept ? p : std::max(column[j], p);
      }
    }
    for (std::size_t j = 0; j < n; ++j)
      if (what.mean)
        out[j] = h == 0 ? column[j] / static_cast<float>(heads) : out[j] + column[j] / static_cast<float>(heads);
      else
        out[j] = h == 0 ? column[j] : std::max(out[j], column[j]);
  }
  return out;
}

void keep_sinks(const GroupSlots& slots, std::int64_t sinks, std::vector<float>& s) {
  for (std::size_t j = 0; j < s.size() && slots.position[j] < sinks; ++j) s[j] = always_kept;
}

}  // namespace kvgrind::sim
