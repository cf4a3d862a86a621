// A score, and beside it what all cache heads of the layer say of the same tokens.
//   out  s and extras of `of`; columns "head g" [slots] for every cache head g of the layer: its score of the token,
//        −inf where it no longer holds it
//   source: arXiv 2503.00022 (signatures over heads)
#include <fmt/format.h>

#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) { context.evaluate(context.params.call("of"), out); }

void join(const JoinContext& context) {
  for (const JoinGroup& own : context.groups)
    for (const JoinGroup& other : context.groups) {
      if (other.layer != own.layer) continue;
      std::vector<float> column(own.columns->s.size(), -std::numeric_limits<float>::infinity());
      const auto &at = own.slots->position, &from = other.slots->position;
      for (std::size_t i = 0, j = 0; i < at.size(); ++i) {
        while (j < from.size() && from[j] < at[i]) ++j;
        if (j < from.size() && from[j] == at[i]) column[i] = other.columns->s[j];
      }
      own.columns->extra[fmt::format("head {}", other.group)] = std::move(column);
    }
}

}  // namespace

extern const ScoreRow all_heads;
const ScoreRow all_heads = {
    .name = "all_heads",
    .source = "arXiv 2503.00022",
    .help = "a score with what the other cache heads of the layer say",
    .params = {{"of", ParamType::call, "window_attention", "the score", -1e300, 1e300, {"score"}}},
    .needs = {},
    .score = score,
    .gives = {"*", "heads"},
    .join = join,
};

}  // namespace kvgrind::sim::scores
