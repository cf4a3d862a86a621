// One score for all cache heads of a layer, or of several layers, so that they keep one set.
//   out  s [slots] = the scores of the layer's cache heads for the token joined by mean, sum or max; a head that no
//        longer holds it does not count. layers=n: layers n·i … n·i + n − 1 all take the joined score of the first of
//        them that is scored at this firing (a token which that one lost: −inf); 0 = all layers
//   source: kvgrind; layer-shared sets as in arXiv 2407.18121, over groups of layers as in optim996/WindowKV
#include <map>

#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) { context.evaluate(context.params.call("of"), out); }

struct Joined {
  double sum = 0;
  std::int64_t n = 0;
};
using Scores = std::map<std::int64_t, Joined>;  // by position

void add(const JoinGroup& group, bool largest, Scores& scores) {
  for (std::size_t i = 0; i < group.columns->s.size(); ++i) {
    Joined& at = scores[group.slots->position[i]];
    const double s = group.columns->s[i];
    at.sum = at.n == 0 ? s : largest ? std::max(at.sum, s) : at.sum + s;
    ++at.n;
  }
}

void join(const JoinContext& context) {
  const std::string& how = context.params.word("join");
  const std::int64_t layers = context.params.integer("layers");
  const auto leader = [&](std::int64_t layer) { return layers == 0 ? 0 : layer / layers; };
  std::map<std::int64_t, std::int64_t> first;  // of a group of layers: the layer that decides
  for (const JoinGroup& group : context.groups) first.try_emplace(leader(group.layer), group.layer);
  std::map<std::int64_t, Scores> scores;
  for (const JoinGroup& group : context.groups)
    if (first[leader(group.layer)] == group.layer) add(group, how == "max", scores[group.layer]);
  for (const JoinGroup& group : context.groups) {
    const Scores& joined = scores[first[leader(group.layer)]];
    for (std::size_t i = 0; i < group.columns->s.size(); ++i) {
      const auto at = joined.find(group.slots->position[i]);
      if (at == joined.end())
        group.columns->s[i] = -std::numeric_limits<float>::infinity();
      else
        group.columns->s[i] =
            static_cast<float>(how == "mean" ? at->second.sum / static_cast<double>(at->second.n) : at->second.sum);
    }
  }
}

}  // namespace

extern const ScoreRow share;
const ScoreRow share = {
    .name = "share",
    .source = "kvgrind",
    .help = "one score for all cache heads of a layer, or of several layers",
    .params = {{"of", ParamType::call, "column_sum", "the score to share", -1e300, 1e300, {"score"}},
               {"layers", ParamType::integer, "1", "consecutive layers that share the first one's; 0 = all", 0, 1e6},
               {"join", ParamType::word, "mean", "how cache heads join", -1e300, 1e300, {"mean", "sum", "max"}}},
    .needs = {},
    .score = score,
    .gives = {"*"},
    .join = join,
};

}  // namespace kvgrind::sim::scores
