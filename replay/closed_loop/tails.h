// Tails: teacher-forced tokens behind a prefix, and how several of them are fed as one batch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/sequence.h"
#include "core/tap.h"
#include "replay/suite/suite.h"
#include "sim/model/runtime.h"

namespace kvgrind::replay {

// One stretch of tokens on a cache, with the answers that lie inside.
struct Tail {
  std::size_t prefix = 0;                // index of the prefix it stands on
  std::int64_t first = 0;                // position of its first token: the prefix's tokens
  std::span<const float> logits_before;  // of the prefix's last token
  std::vector<std::int32_t> ids;
  // Answer tokens: predicted by row `row` of the tail, −1 = by logits_before.
  struct Target {
    std::int64_t row = 0;
    std::int32_t id = 0;
    std::size_t question = 0;
    bool free = false;  // the same for every answer of the suite
  };
  std::vector<Target> targets;
  std::vector<Segment> segments;  // offsets into ids

  // Tokens that must be fed: the last target itself is never read.
  std::int64_t rows() const { return targets.empty() ? 0 : targets.back().row + 1; }
  // A question (where `with_question` and it has one) and its answer; `free_front`, `free_back` tokens of the answer
  // are free.
  void add_turn(std::size_t question, const SuiteQuestion& asked, bool with_question, std::int64_t free_front,
                std::int64_t free_back);
};

// How tails are fed: at once, up to each segment end, or token by token.
enum class Pace : std::uint8_t { whole, segments, steps };

struct TailBatch {
  const sim::Model& model;
  const sim::RunOptions& options;
  std::int64_t sequence = 0;
  std::span<const Tail> tails;
  std::span<sim::KvCache* const> caches;  // one a tail
  std::span<Tap* const> taps = {};        // one a tail, each may be null; or empty
  Pace pace = Pace::whole;
};

// Advances all tails together. `logits(tail, target, row)` hears of every target; `done`, unless empty, is told when
// the pieces of all tails have passed all layers: which tails, and which rows of each.
struct TailPiece {
  std::size_t tail = 0;
  std::int64_t first = 0, rows = 0;
};
void feed_tails(const TailBatch& batch, const std::function<void(std::span<const TailPiece>)>& done,
                const std::function<void(std::size_t tail, std::size_t target, std::span<const float>)>& logits);

}  // namespace kvgrind::replay
