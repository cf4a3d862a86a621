// Open-loop figures from tallies: recall, S, E, D, top-k overlap, output error. Names carry figure and query set
// (recall.answer.far); formulas and units in replay/metrics/README.md.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/array.h"
#include "replay/metrics/tally.h"
#include "traces/results/result_row.h"

namespace kvgrind::replay {

using traces::Metric;
using traces::MetricMap;

// Rows (measured queries) that one query set holds.
struct MeasuredSet {
  std::string name;                // all | question | answer
  std::vector<std::int64_t> rows;  // ascending
  bool complete = true;            // every query of the set was recorded; else its figures are estimates
};

struct TallyTable {
  Array<RowTally, 3> rows;    // [L, Hq, M]
  Array<double, 2> shift;     // ‖W_O(o′ − o)‖ [L, M]; empty: not known
  Array<double, 2> residual;  // ‖x‖ [L, M]; empty: not known
  Array<double, 2> output;    // ‖W_O o‖ [L, M]; empty: not known
  std::vector<double> nll;    // −log p of the token after, in the recording [M]; NaN: unknown; empty: not recorded
  std::int64_t overlap_keys = 32;  // of top-k overlap
};

// `not_measured` receives a sentence for each figure that lacks something.
MetricMap figures(const TallyTable& table, const std::vector<MeasuredSet>& sets,
                  std::vector<std::string>& not_measured);

// What reports rank by where there is no closed loop: the best predictor of dprob found (replay/guide/trust.md).
inline constexpr const char* default_headline = "predicted_dprob.answer";

constexpr double shift_weight = 2.0;  // D = max(S, 2E); chosen in the study named in the README

// What a query's answer is predicted to suffer: odds of the right token fall by e^-m, m = 10·(2·shift + g·lost), shift
// the mean over layers of ‖W_O(o′ − o)‖ / ‖x‖, lost the share of its far look-ups that is gone, and g = min(1, strong /
// 2) how much of a far look-up it is at all: strong = Σ a² over far keys of the context, all layers and heads.
double predicted_fall(double shift, double lost, double strong);

// The probability lost then: p − σ(logit p − fall), p = e^−nll of the recording, its logit taken within [0.0001,
// 0.9999]. Exactly 0 where nothing falls.
double predicted_loss(double nll, double fall);

}  // namespace kvgrind::replay
