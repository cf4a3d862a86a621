// What only all probabilities can tell (column sums, pooled maps, the check of the LSE) and what only pre-RoPE queries
// can (their statistics), computed again on the CPU from K, Q and LSE as they arrive. Costs 2 · D flops a visible pair
// and keeps every open sequence's keys in memory: for short recordings.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "core/array.h"
#include "core/model_card.h"
#include "traces/kvt/recorder.h"

namespace kvgrind::traces {

class AttentionAgain {
 public:
  explicit AttentionAgain(const ModelCard& card) : card_(card) {}

  // Rows [first, first + n) of one layer of a sequence, all queries given. Shows their probabilities to the recorder;
  // rows with an unknown LSE (NaN) are shown as they are. Returns the pre-RoPE queries [n, Hq, D].
  const Array<float, 3>& add(Recorder& recorder, std::int64_t sequence, std::int64_t layer, std::int64_t first,
                             const TapRows& k, const TapRows& q, View<const float, 2> lse);
  // A fork begins with its parent's keys.
  void fork(std::int64_t parent, std::int64_t sequence, std::int64_t tokens);
  void forget(std::int64_t sequence) { keys_.erase(sequence); }

 private:
  using Keys = std::vector<std::vector<float>>;  // [L · Hk][tokens · D]
  Keys& keys_of(std::int64_t sequence);
  ModelCard card_;
  std::map<std::int64_t, Keys> keys_;
  Array<float, 3> q_, pre_;
};

}  // namespace kvgrind::traces
