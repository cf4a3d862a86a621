// Fast KVzip: a small attention of the token to itself, against fixed competitors.
//   x [F] = pre-RoPE queries and keys and values of all heads of the layer; tensors of layer l, g = KV head, u = query
//   of the group (G of them), d' = width, n = base keys: "wq l" [F, Hk·G·d'], "cq l" [Hk·G·d'], "wk l" [F, Hk·d'],
//   "nq l", "nk l" [d'], "base l" [Hk·n, d'], "b l" [Hk·G]
//   q_u = nq ∘ rms(wqᵀ x + cq), k = nk ∘ rms(wkᵀ x), rms(z) = z / √(mean z² + 1e-6)
//   s [slots] = mean over u of 1 / (1 + Σ_base exp(base·q_u/√d' − k·q_u/√d' − b_u)), once when a token is first seen
//   first `sinks` tokens and the last int(share · S) (S ≥ 32000: `window`): +∞
//   source: arXiv 2601.17668; Janghyun1230/FastKVzip gate.py; NVIDIA/kvpress fastkvzip_press.py
#include <Eigen/Core>
#include <cmath>

#include "sim/engine/probe_scores.h"
#include "sim/engine/score_support.h"
#include "sim/engine/token_features.h"

namespace kvgrind::sim::scores {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t long_context = 32000;

Eigen::Map<const Rows> matrix(const CalibrationTensor& tensor) {
  return {tensor.values.data(), tensor.shape[0], tensor.shape[1]};
}

Eigen::RowVectorXf normed(const Eigen::Ref<const Eigen::RowVectorXf>& z, const std::vector<float>& weight) {
  const float inverse = 1 / std::sqrt(z.squaredNorm() / static_cast<float>(z.size()) + 1e-6f);
  return (z.array() * inverse * Eigen::Map<const Eigen::ArrayXf>(weight.data(), z.size()).transpose()).matrix();
}

void score(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const Calibration& fitted = context.params.calibration("calib");
  const auto name = [&](const char* what) { return std::string(what) + " " + std::to_string(context.layer); };
  const std::int64_t g = context.group * card.kv_heads / context.cache.heads(), group = card.group(),
                     features = feature_count(card);
  const auto& nk = fitted.tensor(name("nk"), {-1});
  const std::int64_t width = nk.shape[0];
  const auto& nq = fitted.tensor(name("nq"), {width});
  const auto wq = matrix(fitted.tensor(name("wq"), {features, card.query_heads * width}));
  const auto wk = matrix(fitted.tensor(name("wk"), {features, card.kv_heads * width}));
  const auto& cq = fitted.tensor(name("cq"), {card.query_heads * width});
  const auto all_base = matrix(fitted.tensor(name("base"), {-1, width}));
  const std::int64_t bases = all_base.rows() / card.kv_heads;
  const auto base = all_base.middleRows(g * bases, bases);
  const auto& b = fitted.tensor(name("b"), {card.query_heads});
  const float root = std::sqrt(static_cast<float>(width));

  const GroupSlots& slots = context.slots();
  std::vector<float>& known = context.memory["gate_attention"];
  const auto first = static_cast<std::int64_t>(known.size());
  known.resize(static_cast<std::size_t>(std::max(first, context.moment.tokens)));
  const Array<float, 2> x = token_features(context, first);
  const std::size_t begin = slots_below(slots, first);
  if (x.extent(0) > 0) {
    const Eigen::Map<const Rows> rows(x.data(), x.extent(0), features);
    const Rows q = (rows * wq.middleCols(g * group * width, group * width)).rowwise() +
                   Eigen::Map<const Eigen::RowVectorXf>(cq.values.data() + g * group * width, group * width);
    const Rows k = rows * wk.middleCols(g * width, width);
    for (std::int64_t t = 0; t < rows.rows(); ++t) {
      const Eigen::RowVectorXf key = normed(k.row(t), nk.values);
      float sum = 0;
      for (std::int64_t u = 0; u < group; ++u) {
        const Eigen::RowVectorXf query = normed(q.row(t).segment(u * width, width), nq.values);
        const float own = key.dot(query) / root + b.values[static_cast<std::size_t>(g * group + u)];
        float others = 0;
        for (std::int64_t s = 0; s < bases; ++s) others += std::exp(base.row(s).dot(query) / root - own);
        sum += 1 / (1 + others);
      }
      known[static_cast<std::size_t>(slots.position[begin + static_cast<std::size_t>(t)])] =
          sum / static_cast<float>(group);
    }
  }
  for (std::size_t j = 0; j < out.s.size(); ++j) out.s[j] = known[static_cast<std::size_t>(slots.position[j])];
  keep_sinks(slots, context.params.integer("sinks"), out.s);
  const std::int64_t seen = context.moment.tokens;
  const std::int64_t recent =
      seen < long_context ? static_cast<std::int64_t>(static_cast<double>(seen) * context.params.number("share"))
                          : context.params.integer("window");
  for (std::size_t j = out.s.size(); j > 0 && slots.position[j - 1] >= seen - recent; --j) out.s[j - 1] = always_kept;
}

}  // namespace

extern const ScoreRow gate_attention;
const ScoreRow gate_attention = {
    .name = "gate_attention",
    .source = "arXiv 2601.17668; Janghyun1230/FastKVzip gate.py; NVIDIA/kvpress fastkvzip_press.py",
    .help = "a fitted gate: how a token's own key fares against fixed ones",
    .params =
        {{"sinks", ParamType::integer, "4", "first tokens, kept before all scores", 0, 1e9},
         {"share", ParamType::number, "0.02", "newest share of the tokens that stays", 0, 1},
         {"window", ParamType::integer, "4096", "newest tokens that stay instead, from 32000 on", 0, 1e9},
         {"calib", ParamType::calibration, "\"\"", "what kvgrind fit fast_kvzip wrote", -1e300, 1e300, {"fast_kvzip"}}},
    .needs = {Signal::queries},
    .score = score,
};

}  // namespace kvgrind::sim::scores
