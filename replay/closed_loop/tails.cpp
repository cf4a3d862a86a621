#include "replay/closed_loop/tails.h"

#include <algorithm>

namespace kvgrind::replay {
namespace {

// Where the piece that begins at row `at` ends.
std::int64_t piece_end(const Tail& tail, std::int64_t at, Pace pace) {
  std::int64_t end = pace == Pace::steps ? std::min(at + 1, tail.rows()) : tail.rows();
  for (std::size_t s = 0; pace == Pace::segments && s < tail.segments.size(); ++s)
    if (tail.segments[s].end > at) end = std::min(end, tail.segments[s].end);
  return end;
}

sim::Feed feed_of(const TailBatch& batch, const TailPiece& piece) {
  const Tail& tail = batch.tails[piece.tail];
  sim::Feed feed{
      .sequence = batch.sequence,
      .first = tail.first + piece.first,
      .ids = std::span(tail.ids).subspan(static_cast<std::size_t>(piece.first), static_cast<std::size_t>(piece.rows)),
      .cache = batch.caches[piece.tail],
      .tap = batch.taps.empty() ? nullptr : batch.taps[piece.tail],
      .decode = batch.pace == Pace::steps};
  for (const Tail::Target& target : tail.targets)
    if (target.row >= piece.first && target.row < piece.first + piece.rows)
      feed.logits_of.push_back(target.row - piece.first);
  return feed;
}

}  // namespace

void Tail::add_turn(std::size_t question, const SuiteQuestion& asked, bool with_question, std::int64_t free_front,
                    std::int64_t free_back) {
  const auto end = [this] { return static_cast<std::int64_t>(ids.size()); };
  if (with_question && !asked.question.empty()) {
    segments.push_back({Role::question, end(), end() + static_cast<std::int64_t>(asked.question.size())});
    ids.insert(ids.end(), asked.question.begin(), asked.question.end());
  }
  const auto n = static_cast<std::int64_t>(asked.answer.size());
  segments.push_back({Role::answer, end(), end() + n});
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t id = asked.answer[static_cast<std::size_t>(i)];
    targets.push_back({end() - 1, id, question, i < free_front || i >= n - free_back});
    ids.push_back(id);
  }
}

void feed_tails(const TailBatch& batch, const std::function<void(std::span<const TailPiece>)>& done,
                const std::function<void(std::size_t, std::size_t, std::span<const float>)>& logits) {
  const std::span<const Tail> tails = batch.tails;
  std::vector<std::int64_t> fed(tails.size(), 0);
  for (;;) {
    std::vector<TailPiece> pieces;
    std::vector<sim::Feed> feeds;
    for (std::size_t t = 0; t < tails.size(); ++t) {
      const std::int64_t n = piece_end(tails[t], fed[t], batch.pace) - fed[t];
      if (n <= 0) continue;
      pieces.push_back({t, fed[t], n});
      feeds.push_back(feed_of(batch, pieces.back()));
      fed[t] += n;
    }
    if (pieces.empty()) break;
    const auto out = sim::forward(batch.model, feeds, batch.options);
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const auto& [tail, first, n] = pieces[p];
      const float* row = out[p].data();
      for (std::size_t i = 0; i < tails[tail].targets.size(); ++i) {
        const std::int64_t r = tails[tail].targets[i].row;
        if (r < first || r >= first + n) continue;
        logits(tail, i, {row, static_cast<std::size_t>(out[p].extent(1))});
        row += out[p].extent(1);
      }
    }
    if (done) done(pieces);
  }
  for (std::size_t t = 0; t < tails.size(); ++t)
    for (std::size_t i = 0; i < tails[t].targets.size(); ++i)
      if (tails[t].targets[i].row < 0) logits(t, i, tails[t].logits_before);
}

}  // namespace kvgrind::replay
