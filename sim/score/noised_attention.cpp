// Keyformer: attention with Gumbel noise and a temperature, summed over all queries so far.
//   in   q of every position, keys of the slots; logits x, g ~ Gumbel(0, 1) per logit
//   out  s [slots] = Σ over queries of softmax((x + g) / τ_t), τ_t = tau_init + t · tau_step, t = tokens since the
//   first
//        firing (0 for the prompt); joined over the group's query heads. Sums are kept by position.
//   source: arXiv 2403.09054; d-matrix-ai/keyformer-llm attention_keyformer_new_bias.py
//   deviations: noise is a function of (seed, sequence, layer, query head, query, key); sums are of one sequence
#include <fmt/format.h>

#include "core/rng.h"
#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

// exp(−g) of a standard Gumbel g of one logit: −log of a uniform.
double exponential(const RandomKey& key, std::int64_t query, std::int64_t position) {
  const double u = static_cast<double>(random_uniform(key, (query << 31) | position)) + 0x1p-25;
  return -std::log(u);
}

void score(const ScoreContext& context, Columns& out) {
  const GroupSlots& slots = context.slots();
  const std::int64_t tokens = context.moment.tokens;
  const bool noise = context.params.boolean("noise");
  std::vector<float>& mark = context.memory["noised_attention"];  // prompt length, queries seen
  if (mark.empty()) mark = {static_cast<float>(tokens), 0.0f};
  const auto prompt = static_cast<std::int64_t>(mark[0]), seen = static_cast<std::int64_t>(mark[1]);
  std::vector<std::vector<double>> head;
  for (std::int64_t h = 0; h < context.query_heads(); ++h) {
    const std::int64_t query_head = context.first_query_head() + h;
    const RandomKey key{context.facts.seed, context.facts.sequence, static_cast<std::int32_t>(context.layer),
                        static_cast<std::int32_t>(query_head), "noised_attention"};
    std::vector<float>& sum = context.memory[fmt::format("noised_attention {}", h)];
    sum.resize(static_cast<std::size_t>(tokens), 0.0f);
    constexpr std::int64_t rows = 256;
    std::vector<double> x(out.s.size()), more(out.s.size());
    for (std::int64_t first = seen; first < tokens; first += rows) {
      const std::int64_t n = std::min(rows, tokens - first);
      const Array<float, 2> p = context.attention(query_head, first, n);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t query = first + i;
        const double tau =
            context.params.number("tau") +
            context.params.number("tau_step") * static_cast<double>(std::max<std::int64_t>(0, query - prompt + 1));
        double top = 0, total = 0;
        for (std::size_t j = 0; j < x.size(); ++j) {  // exp(logit + noise), up to the row's own factor
          x[j] = std::max(0.0, static_cast<double>(p(i, static_cast<std::int64_t>(j))));
          if (x[j] > 0 && noise) x[j] /= exponential(key, query, slots.position[j]);
          top = std::max(top, x[j]);
        }
        for (double& value : x) {
          if (tau != 1 && value > 0) value = std::pow(value / top, 1 / tau);
          total += value;
        }
        for (std::size_t j = 0; j < x.size(); ++j) more[j] += x[j] / total;
      }
    }
    std::vector<double>& column = head.emplace_back();
    for (std::size_t j = 0; j < more.size(); ++j) {
      float& at = sum[static_cast<std::size_t>(slots.position[j])];
      at += static_cast<float>(more[j]);
      column.push_back(at);
    }
  }
  mark[1] = static_cast<float>(tokens);
  out.s = reduce_heads(head, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow noised_attention;
const ScoreRow noised_attention = {
    .name = "noised_attention",
    .source = "arXiv 2403.09054; d-matrix-ai/keyformer-llm",
    .help = "attention with Gumbel noise and a temperature, summed over all queries",
    .params = {{"tau", ParamType::number, "1", "temperature of the prompt", 1e-3, 1e3},
               {"tau_step", ParamType::number, "0.01", "added to it for every later token", 0, 1e3},
               {"noise", ParamType::boolean, "on", "Gumbel noise on every logit"},
               {"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
