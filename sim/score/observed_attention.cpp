// Mean attention received: the column sum divided by the number of queries that could see the token.
//   out  s [slots]: Σ attention / (T − position), at most the layer's window queries; joined over the query heads
//   source: NVIDIA/kvpress observed_attention_press.py
#include <algorithm>

#include "sim/engine/primitive.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  std::vector<std::vector<double>> sums = running_column_sums(context);
  const GroupSlots& slots = context.slots();
  for (auto& head : sums)
    for (std::size_t j = 0; j < head.size(); ++j) {
      std::int64_t exposure = context.moment.tokens - slots.position[j];
      if (context.window() > 0) exposure = std::min(exposure, context.window());
      head[j] /= static_cast<double>(exposure);
    }
  out.s = reduce_heads(sums, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow observed_attention;
const ScoreRow observed_attention = {
    .name = "observed_attention",
    .source = "NVIDIA/kvpress observed_attention_press.py",
    .help = "mean attention received over the queries that saw the token",
    .params = {{"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::column_sums},
    .score = score,
};

}  // namespace kvgrind::sim::scores
