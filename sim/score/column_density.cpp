// Column sums, and how unevenly they lie: the figure D2O shares a layer's budget by.
//   out  s [slots] = Σ over queries of attention, as column_sum; figure "variance h" of each query head h of the model
//        that the group serves: unbiased variance of its column sums
//   source: arXiv 2406.13035; AIoT-MLSys-Lab/D2O modeling_llama3_7b_13b_d2o.py
#include <fmt/format.h>

#include "sim/engine/reduce.h"
#include "sim/engine/score_support.h"

namespace kvgrind::sim::scores {
namespace {

void score(const ScoreContext& context, Columns& out) {
  const std::vector<std::vector<double>> sums = running_column_sums(context);
  for (std::size_t h = 0; h < sums.size(); ++h) {
    const auto n = static_cast<double>(sums[h].size());
    double mean = 0, squares = 0;
    for (const double sum : sums[h]) mean += sum / n;
    for (const double sum : sums[h]) squares += (sum - mean) * (sum - mean);
    out.figures[fmt::format("variance {}", context.first_query_head() + static_cast<std::int64_t>(h))] =
        n > 1 ? squares / (n - 1) : 0.0;
  }
  out.s = reduce_heads(sums, context.params.word("reduce"));
}

}  // namespace

extern const ScoreRow column_density;
const ScoreRow column_density = {
    .name = "column_density",
    .source = "arXiv 2406.13035; AIoT-MLSys-Lab/D2O",
    .help = "attention received from all queries, and how unevenly it lies",
    .params = {{"reduce", ParamType::word, "mean", reduce_help, -1e300, 1e300, {"mean", "max", "sum", "none"}}},
    .needs = {Signal::column_sums},
    .score = score,
    .gives = {"variance"},
};

}  // namespace kvgrind::sim::scores
