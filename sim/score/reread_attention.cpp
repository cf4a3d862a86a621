// KVCompose: attention while the context is read a second time, each head with a part of all heads' mean.
//   u_g [slots] = mean (heads=max: maximum) over the group's query heads of the largest (rows=mean: mean) attention
//   over the queries of the second reading, softmax over everything they see; vnorm=on: times ‖v‖₂
//   s_g = u_g, cross=on: + the mean over the layer's groups of u; slots outside the context: +∞
//   source: arXiv 2509.05165; NVIDIA/kvpress kvcompose_press.py
#include <cmath>
#include <map>

#include "sim/engine/probe_scores.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  out.s = probe_scores(
      context, {.kind = Signal::reread_probe,
                .statistic = context.params.word("rows") == "mean" ? ProbeStatistic::row_mean : ProbeStatistic::row_max,
                .mean = context.params.word("heads") == "mean"});
  if (!context.params.boolean("vnorm")) return;
  const GroupSlots& slots = context.slots();
  for (std::size_t j = 0; j < out.s.size(); ++j) {
    double sum = 0;
    for (std::int64_t d = 0; d < slots.head_dim; ++d) {
      const double x = slots.values()(static_cast<std::int64_t>(j), d);
      sum += x * x;
    }
    if (!std::isinf(out.s[j])) out.s[j] *= static_cast<float>(std::sqrt(sum));
  }
}

void join(const JoinContext& context) {
  if (!context.params.boolean("cross")) return;
  for (std::size_t begin = 0; begin < context.groups.size();) {
    std::size_t end = begin;
    std::map<std::int64_t, std::pair<double, int>> at;  // by position: sum, groups
    for (; end < context.groups.size() && context.groups[end].layer == context.groups[begin].layer; ++end) {
      const JoinGroup& group = context.groups[end];
      for (std::size_t j = 0; j < group.columns->s.size(); ++j) {
        auto& [sum, n] = at[group.slots->position[j]];
        sum += static_cast<double>(group.columns->s[j]);
        ++n;
      }
    }
    for (; begin < end; ++begin) {
      const JoinGroup& group = context.groups[begin];
      for (std::size_t j = 0; j < group.columns->s.size(); ++j) {
        const auto& [sum, n] = at[group.slots->position[j]];
        group.columns->s[j] += static_cast<float>(sum / n);
      }
    }
  }
}

}  // namespace

extern const ScoreRow reread_attention;
const ScoreRow reread_attention = {
    .name = "reread_attention",
    .source = "arXiv 2509.05165; NVIDIA/kvpress kvcompose_press.py",
    .help = "largest attention while the context is read a second time",
    .params = {{"rows", ParamType::word, "max", "over queries", -1e300, 1e300, {"max", "mean"}},
               {"heads", ParamType::word, "mean", "over a group's query heads", -1e300, 1e300, {"mean", "max"}},
               {"vnorm", ParamType::boolean, "off", "times the norm of the value"},
               {"cross", ParamType::boolean, "on", "the mean over the layer's heads is added to each"}},
    .needs = {Signal::reread_probe},
    .score = score,
    .join = join,
};

}  // namespace kvgrind::sim::scores
