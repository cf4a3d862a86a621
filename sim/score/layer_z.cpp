// Another score as a z-score over all cache heads of the layer: (s − mean) / max(std, 1e-6), std unbiased. The order
// inside a head stays; heads that compete for tokens then compare like with like.
//   source: arXiv 2507.08143; NVIDIA/kvpress leverage_press.py
#include "sim/engine/layer_z.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) { context.evaluate(context.params.call("of"), out); }

void join(const JoinContext& context) {
  each_layer_of(context.groups, [](std::span<const JoinGroup> layer) {
    std::vector<std::vector<float>*> columns;
    for (const JoinGroup& group : layer) columns.push_back(&group.columns->s);
    z_scores(columns);
  });
}

}  // namespace

extern const ScoreRow layer_z;
const ScoreRow layer_z = {
    .name = "layer_z",
    .source = "arXiv 2507.08143; NVIDIA/kvpress leverage_press.py",
    .help = "another score, standardised over the layer",
    .params = {{"of", ParamType::call, "key_norm", "the score to standardise", -1e300, 1e300, {"score"}}},
    .needs = {},
    .score = score,
    .gives = {"*"},
    .join = join,
};

}  // namespace kvgrind::sim::scores
