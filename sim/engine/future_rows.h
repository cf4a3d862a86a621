// What the queries known to come give the slots of a group: oracles.
#pragma once
#include <algorithm>
#include <cmath>

#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// row(head of the group, queries after the first, attention over the slots, share): the attention adds up to 1 over the
// slots; times `share` it is the full cache's, where the log Σ exp of that is known (elsewhere the share is 1).
template <class Row>
void for_future_rows(const ScoreContext& context, Row&& row) {
  const auto [begin, end] = context.signals.future(context.moment.tokens);
  constexpr std::int64_t rows = 256;  // queries at a time, so that memory stays small
  for (std::int64_t h = 0; h < context.query_heads(); ++h)
    for (std::int64_t first = begin; first < end; first += rows) {
      const std::int64_t n = std::min(rows, end - first), query_head = context.first_query_head() + h;
      std::vector<float> lse;
      const Array<float, 2> p = context.attention(query_head, first, n, &lse);
      const std::vector<float> full = context.signals.log_sum_exp(context.layer, query_head, first, n);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const double share =
            full.empty() ? 1.0 : std::exp(static_cast<double>(lse[at]) - static_cast<double>(full[at]));
        row(h, first - begin + i, p.view()[i], share);
      }
    }
}

}  // namespace kvgrind::sim
