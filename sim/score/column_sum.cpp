// Attention that a token received from all queries so far, carried along while tokens leave.
//   out  s [slots]: Σ over queries of attention; recorded sums at the first firing, then rows renormalised over the
//        slots that were left; joined over the group's query heads
//   source: arXiv 2306.14048; FMInference/H2O modify_llama.py; deviations: the sum of a slot is kept by position
#include "sim/engine/primitive.h"
#include "sim/engine/reduce.h"

namespace kvgrind::sim::scores {
namespace {

void score([[maybe_unused]] const ScoreContext& context, Columns& out) {
  out.s = reduce_heads(running_column_sums(context), context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow column_sum;
const ScoreRow column_sum = {
    .name = "column_sum",
    .source = "arXiv 2306.14048; FMInference/H2O",
    .help = "attention received from all queries so far",
    .params = {{"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::column_sums},
    .score = score,
};

}  // namespace kvgrind::sim::scores
