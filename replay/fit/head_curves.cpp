// Shares of each head at every level: which tokens a score keeps is given, how many in which head is chosen so that the
// least of the attention after the context is lost (LU-KV).
//   in   a score (--score), protected sinks and last tokens first; mass = future_mass of each token
//   per  sequence and head: f(b) = mass outside the best b; its lower convex hull; every head starts with one token,
//        then the hull segment of the steepest slope is next, until (1 − r) of all tokens are given; r = 1 … 99 %
//   out  "prune" [99, L, Hk]: mean over the sequences of 1 − b / tokens
//   source: arXiv 2602.08585 (abstract; the rest is ours)
#include <algorithm>
#include <cmath>
#include <map>

#include "core/parallel.h"
#include "replay/fit/fit_data.h"
#include "sim/engine/fitted_shares.h"
#include "sim/engine/priority.h"

namespace kvgrind::replay {
namespace {

// Of each head: kept mass of its best b tokens, [tokens + 1].
using Curves = std::vector<std::vector<double>>;

Curves curves_of(const FitSequence& sequence, const ModelCard& card, const sim::BoundCall& score) {
  const FitCache cache(sequence);
  Curves out(static_cast<std::size_t>(card.layers * card.kv_heads));
  sim::GroupSlots slots;
  for (std::int64_t t = 0; t < sequence.moment; ++t) slots.position.push_back(t);
  parallel_for(card.layers * card.kv_heads, [&](std::int64_t at) {
    const std::int64_t l = at / card.kv_heads, g = at % card.kv_heads;
    const std::vector<float> s = cache.scores(score, l, g);
    const std::vector<double> mass = future_mass(sequence, l, g);
    std::int64_t nan = 0;
    std::vector<double>& curve = out[static_cast<std::size_t>(at)];
    curve.push_back(0);
    for (const std::int32_t j : sim::priority_order(slots, s, {.sink = 4, .recent = 1}, nan))
      curve.push_back(curve.back() + mass[static_cast<std::size_t>(j)]);
  });
  return out;
}

struct Segment {
  double slope = 0;
  std::size_t head = 0;
  std::int64_t length = 0;
};

// Segments of the curve's upper hull from b = 1 on (the lower hull of what is lost), steepest first.
void add_segments(const std::vector<double>& curve, std::size_t head, std::vector<Segment>& out) {
  std::vector<std::size_t> corner;
  const auto slope = [&](std::size_t a, std::size_t b) { return (curve[b] - curve[a]) / static_cast<double>(b - a); };
  for (std::size_t b = 1; b < curve.size(); ++b) {
    while (corner.size() > 1 && slope(corner[corner.size() - 2], corner.back()) <= slope(corner.back(), b))
      corner.pop_back();
    corner.push_back(b);
  }
  for (std::size_t i = 0; i + 1 < corner.size(); ++i)
    out.push_back({slope(corner[i], corner[i + 1]), head, static_cast<std::int64_t>(corner[i + 1] - corner[i])});
}

}  // namespace

std::vector<std::vector<std::int64_t>> curve_counts(const Curves& curves, std::int64_t tokens) {
  std::vector<Segment> segments;
  for (std::size_t head = 0; head < curves.size(); ++head) add_segments(curves[head], head, segments);
  std::stable_sort(segments.begin(), segments.end(),
                   [](const Segment& a, const Segment& b) { return a.slope > b.slope; });
  const auto heads = static_cast<std::int64_t>(curves.size());
  std::vector<std::vector<std::int64_t>> out;
  for (std::int64_t level = 1; level <= sim::fitted_levels; ++level) {
    std::vector<std::int64_t> kept(curves.size(), 1);
    std::int64_t left =
        static_cast<std::int64_t>(std::nearbyint(static_cast<double>(heads * tokens * (100 - level)) / 100)) - heads;
    for (const Segment& segment : segments) {
      if (left <= 0) break;
      const std::int64_t n = std::min(left, segment.length);
      kept[segment.head] += n;
      left -= n;
    }
    out.push_back(std::move(kept));
  }
  return out;
}

void fit_head_curves(const FitSplit& split, Calibration& out) {
  const ModelCard& card = split.card;
  const sim::BoundCall score = sim::bind_call("score", parse_call(split.request.score), split.request.score);
  const auto heads = static_cast<std::size_t>(card.layers * card.kv_heads);
  const auto levels = static_cast<std::size_t>(sim::fitted_levels);
  std::vector<double> sum(levels * heads);
  std::vector<Curves> fitted;
  for (const FitSequence& sequence : split.fitted) {
    fitted.push_back(curves_of(sequence, card, score));
    const auto counts = curve_counts(fitted.back(), sequence.moment);
    for (std::size_t r = 0; r < levels; ++r)
      for (std::size_t g = 0; g < heads; ++g)
        sum[r * heads + g] += 1 - static_cast<double>(counts[r][g]) / static_cast<double>(sequence.moment);
  }
  CalibrationTensor& tensor = out.tensors["prune"];
  tensor.shape = {sim::fitted_levels, card.layers, card.kv_heads};
  for (const double x : sum) tensor.values.push_back(static_cast<float>(x / static_cast<double>(fitted.size())));

  constexpr std::size_t row = 79;  // 80 % dropped
  const auto lost = [&](const Curves& curves) {
    double chosen = 0, equal = 0;
    for (std::size_t g = 0; g < heads; ++g) {
      const auto at = [&](double share) {
        const auto b = static_cast<std::size_t>(std::lround(share * static_cast<double>(curves[g].size() - 1)));
        return curves[g].back() - curves[g][b];
      };
      chosen += at(1 - static_cast<double>(tensor.values[row * heads + g]));
      equal += at(0.2);
    }
    return equal > 0 ? chosen / equal : 1.0;
  };
  double fitted_error = 0, held_error = 0;
  for (const Curves& curves : fitted) fitted_error += lost(curves) / static_cast<double>(fitted.size());
  for (const FitSequence& sequence : split.held_out)
    held_error += lost(curves_of(sequence, card, score)) / static_cast<double>(split.held_out.size());
  out.numbers["fitted_error"] = fitted_error;
  out.numbers["held_out_error"] = held_error;
  out.texts["score"] = split.request.score;
}

}  // namespace kvgrind::replay
