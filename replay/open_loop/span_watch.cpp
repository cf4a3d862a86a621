#include "replay/open_loop/span_watch.h"

#include <algorithm>

namespace kvgrind::replay {

SpanWatch::SpanWatch(const std::vector<Span>& spans, const sim::CacheState& cache)
    : groups_(cache.layers() * cache.heads()) {
  for (const Span& span : spans)
    spans_.push_back({.span = span,
                      .lost_in = std::vector<std::int64_t>(
                          static_cast<std::size_t>(std::max<std::int64_t>(0, span.end - span.begin)))});
}

void SpanWatch::see(const sim::GroupPlan& plan, const sim::CacheState& cache, std::int64_t tokens_seen) {
  if (plan.keep.empty()) return;
  const auto& position = cache.group(plan.layer, plan.group).position;
  for (Watched& watched : spans_) {
    auto slot = static_cast<std::size_t>(std::lower_bound(position.begin(), position.end(), watched.span.begin) -
                                         position.begin());
    for (; slot < plan.keep.size() && slot < position.size() && position[slot] < watched.span.end; ++slot) {
      if (plan.keep[slot]) continue;
      if (watched.first_loss < 0) watched.first_loss = tokens_seen;
      auto& lost_in = watched.lost_in[static_cast<std::size_t>(position[slot] - watched.span.begin)];
      if (++lost_in == groups_ && watched.first_loss_everywhere < 0) watched.first_loss_everywhere = tokens_seen;
    }
  }
}

std::vector<SpanOutcome> SpanWatch::outcomes(const sim::CacheState& cache) const {
  std::vector<SpanOutcome> out;
  for (const Watched& watched : spans_) {
    SpanOutcome outcome{
        .span = watched.span, .first_loss = watched.first_loss, .first_loss_everywhere = watched.first_loss_everywhere};
    const auto length = static_cast<double>(watched.lost_in.size());
    if (length > 0) {
      std::vector<std::uint8_t> somewhere(watched.lost_in.size(), 0);
      double kept = 0, worst = 1;
      for (std::int64_t l = 0; l < cache.layers(); ++l)
        for (std::int64_t h = 0; h < cache.heads(); ++h) {
          const auto& position = cache.group(l, h).position;
          double here = 0;
          for (auto it = std::lower_bound(position.begin(), position.end(), watched.span.begin);
               it != position.end() && *it < watched.span.end; ++it) {
            somewhere[static_cast<std::size_t>(*it - watched.span.begin)] = 1;
            ++here;
          }
          kept += here / length;
          worst = std::min(worst, here / length);
        }
      outcome.kept_frac = kept / static_cast<double>(groups_);
      outcome.kept_worst_frac = worst;
      outcome.kept_somewhere_frac = static_cast<double>(std::count(somewhere.begin(), somewhere.end(), 1)) / length;
    }
    out.push_back(std::move(outcome));
  }
  return out;
}

std::map<std::string, std::pair<double, std::int64_t>> SpanWatch::kept_by_kind(
    const std::vector<SpanOutcome>& outcomes) {
  std::map<std::string, std::pair<double, std::int64_t>> out;
  for (const SpanOutcome& outcome : outcomes) {
    auto& [sum, n] = out[outcome.span.kind];
    sum += outcome.kept_frac;
    ++n;
  }
  for (auto& [kind, entry] : out) entry.first /= static_cast<double>(entry.second);
  return out;
}

}  // namespace kvgrind::replay
