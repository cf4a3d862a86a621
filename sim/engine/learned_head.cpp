#include "sim/engine/learned_head.h"

#include <Eigen/Core>
#include <cmath>

#include "sim/engine/score_support.h"
#include "sim/engine/token_features.h"

namespace kvgrind::sim {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Rows matrix(const CalibrationTensor& tensor) {
  return Eigen::Map<const Rows>(tensor.values.data(), tensor.shape[0], tensor.shape[1]);
}
Eigen::RowVectorXf row(const CalibrationTensor& tensor) {
  return Eigen::Map<const Eigen::RowVectorXf>(tensor.values.data(), tensor.shape[0]);
}

}  // namespace

void learned_head_scores(const ScoreContext& context, Columns& out) {
  const ModelCard& card = *context.facts.card;
  const Calibration& fitted = context.params.calibration("calib");
  const std::int64_t head = context.group * card.kv_heads / context.cache.heads(), features = feature_count(card);
  const auto name = [&](const char* what) { return std::string(what) + " " + std::to_string(context.layer); };
  const GroupSlots& slots = context.slots();
  std::vector<float>& known = context.memory["learned_score"];
  const auto first = static_cast<std::int64_t>(known.size());
  known.resize(static_cast<std::size_t>(std::max(first, context.moment.tokens)));
  const Array<float, 2> x = token_features(context, first);
  if (x.extent(0) > 0) {
    const Eigen::Map<const Rows> rows(x.data(), x.extent(0), features);
    Eigen::VectorXf s;
    if (fitted.tensors.contains(name("w"))) {
      const Rows w = matrix(fitted.tensor(name("w"), {features, card.kv_heads}));
      s = rows * w.col(head);
      s.array() += fitted.tensor(name("b"), {card.kv_heads}).values[static_cast<std::size_t>(head)];
    } else {
      const Rows w1 = matrix(fitted.tensor(name("w1"), {features, -1}));
      Rows hidden = (rows * w1).rowwise() + row(fitted.tensor(name("b1"), {w1.cols()}));
      if (fitted.number("gelu", 0) != 0)
        hidden = hidden.unaryExpr([](float z) { return 0.5f * z * (1 + std::erf(z * 0.70710678f)); });
      else
        hidden = hidden.unaryExpr([](float z) { return z / (1 + std::exp(-z)); });
      s = hidden * matrix(fitted.tensor(name("w2"), {w1.cols(), card.kv_heads})).col(head);
      s.array() += fitted.tensor(name("b2"), {card.kv_heads}).values[static_cast<std::size_t>(head)];
    }
    const bool logistic = fitted.number("logistic", 0) != 0;
    const std::size_t begin = slots_below(slots, first);
    for (std::size_t j = begin; j < slots.position.size(); ++j) {
      const float z = s(static_cast<Eigen::Index>(j - begin));
      known[static_cast<std::size_t>(slots.position[j])] = logistic ? 1 / (1 + std::exp(-z)) : z;
    }
  }
  for (std::size_t j = 0; j < out.s.size(); ++j) out.s[j] = known[static_cast<std::size_t>(slots.position[j])];
}

}  // namespace kvgrind::sim
