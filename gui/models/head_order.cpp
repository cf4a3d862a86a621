#include "gui/models/head_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gui/models/kept.h"

namespace kvgrind::gui {

std::vector<std::size_t> ordered_heads(const std::vector<replay::HeadFacts>& facts, const std::vector<double>& recall,
                                       HeadOrder order) {
  std::vector<std::size_t> out(facts.size());
  std::iota(out.begin(), out.end(), 0u);
  const auto rank = [&](std::size_t i) {
    const double value = order == HeadOrder::entropy  ? -facts[i].entropy_bits
                         : order == HeadOrder::sink   ? -facts[i].sink_mass
                         : order == HeadOrder::recall ? recall[i]
                                                      : 0.0;
    return std::isnan(value) ? std::numeric_limits<double>::infinity() : value;
  };
  std::stable_sort(out.begin(), out.end(), [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  return out;
}

double head_recall(const ViewInput& input, std::int64_t layer, std::int64_t query_head, std::int64_t most) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  if (input.jobs.empty() || !input.jobs.front().view) return nan;
  const auto& layers = input.jobs.front().view->outcome.k_states;
  if (layer >= static_cast<std::int64_t>(layers.size())) return nan;
  const auto& heads = layers[static_cast<std::size_t>(layer)];
  const auto head = static_cast<std::size_t>(query_head * static_cast<std::int64_t>(heads.size()) /
                                             input.session->run().card().query_heads);
  const std::vector<std::uint8_t>& states = heads[head];
  double sum = 0;
  std::int64_t n = 0, before = static_cast<std::int64_t>(states.size());
  while (n < most && before > 0) {
    const replay::AttentionRow row = input.session->attention_row(input.at.sequence, layer, query_head, before - 1);
    if (row.query < 0 || row.query >= before) break;  // none at or before
    double kept = 0, all = 0;
    for (std::size_t t = 0; t < states.size(); ++t) {
      all += static_cast<double>(row.weight[t]);
      if (is_kept(states[t])) kept += static_cast<double>(row.weight[t]);
    }
    sum += all > 0 ? kept / all : nan;
    ++n;
    before = row.query;
  }
  return n > 0 ? sum / static_cast<double>(n) : nan;
}

}  // namespace kvgrind::gui
