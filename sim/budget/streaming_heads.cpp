// Two classes of heads: those that need the far past keep all, streaming heads keep sinks and recents.
//   rule=count: the round(L·H·share) heads with the lowest figure "retrieval" stream (half to even; ties: the earlier)
//   rule=quantile: those below the figures' quantile `share` (linear interpolation)
//   rule=zero: those whose figure is 0
//   a streaming head keeps sinks + max(recent, floor(part · tokens)) + extra slots, where it has more
//   source: arXiv 2410.10819; mit-han-lab/duo-attention utils.py; NVIDIA/kvpress duo_attention_press.py; arXiv
//   2407.15891
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sim/engine/primitive.h"

namespace kvgrind::sim::budgets {
namespace {

void allocate(const BudgetContext& context) {
  auto& groups = context.groups;
  const double share = context.params.number("share");
  std::vector<double> figure;
  for (const BudgetGroup& group : groups) figure.push_back(group.columns->figures.find("retrieval")->second);
  std::vector<std::size_t> order(groups.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return figure[a] < figure[b]; });
  std::vector<char> streams(groups.size());
  if (context.params.word("rule") == "zero") {
    for (std::size_t i = 0; i < groups.size(); ++i) streams[i] = figure[i] == 0;
  } else if (context.params.word("rule") == "count") {
    const auto n = static_cast<std::size_t>(std::nearbyint(share * static_cast<double>(groups.size())));
    for (std::size_t i = 0; i < n; ++i) streams[order[i]] = 1;
  } else if (!groups.empty()) {
    const double at = share * static_cast<double>(groups.size() - 1);
    const auto low = static_cast<std::size_t>(std::floor(at)), high = static_cast<std::size_t>(std::ceil(at));
    const double quantile = figure[order[low]] + (at - std::floor(at)) * (figure[order[high]] - figure[order[low]]);
    for (std::size_t i = 0; i < groups.size(); ++i) streams[i] = figure[i] < quantile;
  }
  const std::int64_t beside = context.params.integer("sinks") + context.params.integer("extra");
  const auto recent = [&](const BudgetGroup& group) {
    return std::max(context.params.integer("recent"),
                    static_cast<std::int64_t>(context.params.number("part") * static_cast<double>(group.tokens)));
  };
  for (std::size_t i = 0; i < groups.size(); ++i)
    groups[i].kept = streams[i] ? std::min(beside + recent(groups[i]), groups[i].visible) : groups[i].visible;
}

}  // namespace

extern const BudgetRow streaming_heads;
const BudgetRow streaming_heads = {
    .name = "streaming_heads",
    .source = "arXiv 2410.10819; mit-han-lab/duo-attention; NVIDIA/kvpress duo_attention_press.py",
    .help = "heads that need no far past keep sinks and recents",
    .params = {{"share", ParamType::number, "0.5", "share of heads that stream", 0, 1},
               {"sinks", ParamType::integer, "128", "first slots of a streaming head", 0, 1e9},
               {"recent", ParamType::integer, "256", "last slots of a streaming head", 0, 1e9},
               {"part", ParamType::number, "0", "the same as a share of the tokens; the larger counts", 0, 1},
               {"extra", ParamType::integer, "0", "slots besides (a token that stands for the dropped)", 0, 1e9},
               {"rule",
                ParamType::word,
                "count",
                "count: that many heads; quantile: those below it; zero: those of figure 0",
                -1e300,
                1e300,
                {"count", "quantile", "zero"}}},
    .needs = {},
    .scope = Scope::model,
    .count = CountClass::fixed,
    .allocate = allocate,
    .columns = {"retrieval"},
};

}  // namespace kvgrind::sim::budgets
