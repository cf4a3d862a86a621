// Shares of each layer at every level: the attention that the context's tokens received, one mass level for all layers
// (PrefixKV).
//   in   column sums over the context's queries, mean over heads, normalised in each layer
//   per  sequence: a layer keeps its best tokens until they hold p of its attention; p such that (1 − r) of all tokens
//        are kept, r = 1 … 99 %
//   out  "prune" [99, L, 1]: mean over the sequences of 1 − kept / tokens
//   source: arXiv 2412.03409; THU-MIG/PrefixKV prefixkv.py
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "replay/fit/fit_data.h"
#include "sim/engine/fitted_shares.h"

namespace kvgrind::replay {
namespace {

constexpr auto levels = static_cast<std::size_t>(sim::fitted_levels);

// Shares dropped, [99 · L].
std::vector<double> dropped(const FitSequence& sequence, const ModelCard& card) {
  const auto layers = static_cast<std::size_t>(card.layers);
  // Every token enters at the mass of those before it; the lowest entries of all layers are kept.
  struct Entry {
    double level = 0;
    std::size_t layer = 0;
  };
  std::vector<std::vector<double>> before(layers);
  parallel_for(card.layers, [&](std::int64_t l) {
    std::vector<double> mass(static_cast<std::size_t>(sequence.moment));
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const std::vector<float> sums = sequence.source->column_sums(l, h, sequence.moment);
      for (std::size_t t = 0; t < mass.size(); ++t) mass[t] += static_cast<double>(sums[t]);
    }
    std::sort(mass.rbegin(), mass.rend());
    double total = 0, sum = 0;
    for (const double m : mass) total += m;
    for (const double m : mass) {
      before[static_cast<std::size_t>(l)].push_back(sum);
      sum += m / total;
    }
  });
  std::vector<Entry> all;
  for (std::size_t l = 0; l < layers; ++l)
    for (const double level : before[l]) all.push_back({level, l});
  std::stable_sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.level < b.level; });
  std::vector<double> out(levels * layers, 1.0);
  for (std::size_t r = 0; r < levels; ++r) {
    const auto kept = static_cast<std::size_t>(
        std::nearbyint(static_cast<double>(all.size()) * static_cast<double>(levels - r) / 100));
    for (std::size_t i = 0; i < kept; ++i) out[r * layers + all[i].layer] -= 1 / static_cast<double>(sequence.moment);
  }
  return out;
}

}  // namespace

void fit_layer_curves(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const auto layers = static_cast<std::size_t>(card.layers);
  std::vector<std::vector<double>> fitted;
  for (const FitSequence& sequence : split.fitted) fitted.push_back(dropped(sequence, card));
  std::vector<double> mean(levels * layers);
  for (const auto& one : fitted)
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += one[i] / static_cast<double>(fitted.size());
  const auto distance = [&](const std::vector<double>& own) {
    double sum = 0;
    for (std::size_t l = 0; l < layers; ++l) sum += std::abs(own[49 * layers + l] - mean[49 * layers + l]);
    return sum / static_cast<double>(layers);
  };
  double fitted_error = 0, held_error = 0;
  for (const auto& one : fitted) fitted_error += distance(one) / static_cast<double>(fitted.size());
  for (const FitSequence& sequence : split.held_out)
    held_error += distance(dropped(sequence, card)) / static_cast<double>(split.held_out.size());
  CalibrationTensor& tensor = out.tensors["prune"];
  tensor.shape = {sim::fitted_levels, card.layers, 1};
  tensor.values.assign(mean.begin(), mean.end());
  out.numbers["fitted_error"] = fitted_error;
  out.numbers["held_out_error"] = held_error;
}

}  // namespace kvgrind::replay
