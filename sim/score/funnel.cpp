// PyramidInfer: each layer looks only at what the layer before it passed on, and passes on less.
//   in   attention of the recents (the last R = floor(S · recent) queries) to the context before them, query i weighted
//        by λ_i = linspace(1, weight); joined over all cache heads of the layer
//   out  s [slots] = 1 for what the layer holds, −1 for what it never saw. Layer 0 holds all. Of its S − 1 − R context
//        tokens layer l passes on floor(context · r_l), r_l = (1 − decay)(cos(π l / L) + 1)/2 + decay, as long as there
//        are more than `least`; sinks first, then the most attended. Recents and the newest token are always passed on.
//   source: arXiv 2405.12532; mutonix/pyramidinfer models/modeling_llama_pyramidinfer.py, configs/llama2_7b.json
//   deviations: attention is that of the full layer's keys, renormalised by nothing (deeper hidden states of dropped
//   tokens exist in a recording; only their K and V go)
#include <fmt/format.h>

#include <map>
#include <numbers>

#include "kernels/rank/rank.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

std::int64_t recents(const Params& params, std::int64_t tokens) {
  return static_cast<std::int64_t>(std::floor(static_cast<double>(tokens) * params.number("recent") + 1e-9));
}

void score(const ScoreContext& context, Columns& out) {
  const std::int64_t tokens = context.moment.tokens;
  const std::int64_t n = std::clamp<std::int64_t>(recents(context.params, tokens), 1, tokens);
  const double weight = context.params.number("weight");
  const Array<float, 2> rows = mean_attention(context, tokens - n, n);
  for (std::int64_t i = 0; i < n; ++i) {
    const double lambda = n == 1 ? 1.0 : 1 + (weight - 1) * static_cast<double>(i) / static_cast<double>(n - 1);
    for (std::size_t j = 0; j < out.s.size(); ++j)
      out.s[j] += static_cast<float>(lambda * static_cast<double>(rows(i, static_cast<std::int64_t>(j))));
  }
}

void join(const JoinContext& context) {
  const std::int64_t tokens = context.moment.tokens, layers = context.facts.card->layers;
  const std::int64_t edge = tokens - 1 - recents(context.params, tokens);  // context = positions below
  const double decay = context.params.number("decay");
  const std::int64_t least = context.params.integer("least"), sinks = context.params.integer("sinks");
  std::vector<std::int64_t> alive;  // context positions that the layer sees
  for (std::int64_t p = 0; p < edge; ++p) alive.push_back(p);
  for (std::size_t begin = 0, end = 0; begin < context.groups.size(); begin = end) {
    const std::int64_t layer = context.groups[begin].layer;
    std::map<std::int64_t, double> sum;
    for (end = begin; end < context.groups.size() && context.groups[end].layer == layer; ++end) {
      const JoinGroup& group = context.groups[end];
      for (std::size_t i = 0; i < group.columns->s.size(); ++i) sum[group.slots->position[i]] += group.columns->s[i];
    }
    for (std::size_t g = begin; g < end; ++g) {
      const JoinGroup& group = context.groups[g];
      for (std::size_t i = 0; i < group.columns->s.size(); ++i) {
        const std::int64_t p = group.slots->position[i];
        group.columns->s[i] = p >= edge || std::binary_search(alive.begin(), alive.end(), p) ? 1.0f : -1.0f;
      }
    }
    const double ratio =
        (1 - decay) * (std::cos(std::numbers::pi * static_cast<double>(layer) / static_cast<double>(layers)) + 1) / 2 +
        decay;
    const auto held = static_cast<std::int64_t>(alive.size());
    if (held <= least) continue;
    const auto next = static_cast<std::int64_t>(std::floor(static_cast<double>(held) * ratio + 1e-9));
    std::vector<float> value;
    for (const std::int64_t p : alive) {
      const auto at = sum.find(p);
      value.push_back(p < sinks ? always_kept : at == sum.end() ? -1.0f : static_cast<float>(at->second));
    }
    std::vector<std::int64_t> passed;
    for (const std::int32_t i : kernels::top_k(value, next)) passed.push_back(alive[static_cast<std::size_t>(i)]);
    alive = std::move(passed);
  }
}

}  // namespace

extern const ScoreRow funnel;
const ScoreRow funnel = {
    .name = "funnel",
    .source = "arXiv 2405.12532; mutonix/pyramidinfer",
    .help = "what each layer receives of what the layer before passed on",
    .params = {{"recent", ParamType::number, "0.2", "share of the tokens that are recents and vote", 0, 1},
               {"decay", ParamType::number, "0.9", "floor of the share that a layer passes on; 1 = everything", 0, 1},
               {"least", ParamType::integer, "64", "context below which nothing more is dropped", 0, 1e9},
               {"sinks", ParamType::integer, "4", "first tokens that are always passed on", 0, 1e9},
               {"weight", ParamType::number, "1.2", "weight of the newest recent beside the oldest", 0, 1e6}},
    .needs = {Signal::queries},
    .score = score,
    .join = join,
};

}  // namespace kvgrind::sim::scores
