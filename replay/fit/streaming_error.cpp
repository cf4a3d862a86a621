// How much each head loses when it sees sinks and recent tokens alone: ‖o_full − o_stream‖ / ‖o_full‖ over the queries
// after the context, the largest over the query heads of a KV head. Stands in for DuoAttention's learned gates.
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "replay/fit/fit_data.h"

namespace kvgrind::replay {
namespace {

std::vector<double> errors_of(const std::vector<FitSequence>& sequences, const FitSplit& split) {
  const ModelCard& card = split.card;
  std::vector<double> out(static_cast<std::size_t>(card.layers * card.kv_heads));
  parallel_for(card.layers * card.kv_heads, [&](std::int64_t at) {
    const std::int64_t l = at / card.kv_heads, g = at % card.kv_heads;
    double worst = 0;
    for (std::int64_t h = g * card.group(); h < (g + 1) * card.group(); ++h) {
      double lost = 0, all = 0;
      for (const FitSequence& sequence : sequences) {
        const auto [begin, end] = sequence.future();
        if (begin >= end) continue;
        const Rows k = sequence.keys(l, g), v = sequence.values(l, g);
        Rows p = causal_attention(card, l, sequence.queries(l, h, begin, end - begin), begin, k);
        const Rows full = p * v;
        const std::int64_t sinks = split.request.sinks, recent = split.request.recent;
        for (Eigen::Index i = 0; i < p.rows(); ++i) {
          const std::int64_t from = std::min(sinks, begin + i + 1), to = std::max(from, begin + i + 1 - recent);
          p.row(i).segment(from, to - from).setZero();
          const float sum = p.row(i).sum();
          if (sum > 0) p.row(i) /= sum;
        }
        lost += static_cast<double>((full - p * v).squaredNorm());
        all += static_cast<double>(full.squaredNorm());
      }
      if (all > 0) worst = std::max(worst, std::sqrt(lost / all));
    }
    out[static_cast<std::size_t>(at)] = worst;
  });
  return out;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  double ma = 0, mb = 0, ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) ma += a[i] / n, mb += b[i] / n;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - ma) * (b[i] - mb);
    aa += (a[i] - ma) * (a[i] - ma);
    bb += (b[i] - mb) * (b[i] - mb);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

}  // namespace

void fit_streaming_error(const FitSplit& split, Calibration& out) {
  const std::vector<double> fitted = errors_of(split.fitted, split), held = errors_of(split.held_out, split);
  double sum = 0;
  for (const double error : fitted) sum += error;
  if (sum < 1e-5 * static_cast<double>(fitted.size()))  // rounding alone
    throw Error(Category::usage, {.doing = "fitting",
                                  .on = "duo",
                                  .found = "contexts no longer than sinks and recents",
                                  .expected = "longer ones",
                                  .next = "smaller --sinks and --recent"});
  CalibrationTensor& tensor = out.tensors["head"];
  tensor.shape = {split.card.layers, split.card.kv_heads};
  for (const double error : fitted) tensor.values.push_back(static_cast<float>(error));
  out.numbers["fitted_error"] = 0;
  out.numbers["held_out_error"] = 1 - correlation(fitted, held);
  out.numbers["sinks"] = static_cast<double>(split.request.sinks);
  out.numbers["recent"] = static_cast<double>(split.request.recent);
}

}  // namespace kvgrind::replay
