// Attention of recorded queries of one head over slots: the one way both the reference (all tokens as slots) and the
// policy's cache are attended, so that equal slots give equal bits.
#pragma once
#include <cstdint>
#include <span>

#include "core/model_card.h"
#include "core/view.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::replay {

struct AttendInput {
  const ModelCard& card;
  std::int64_t layer = 0, query_head = 0;
  View<const float, 2> q;                  // [n, D] at ascending positions that follow each other
  std::span<const std::int64_t> position;  // [n]
  sim::GroupView slots;                    // ascending by position
};

// p [n, slots]: rows of softmax; out [n, D]. Every entry is written.
// In layers with a window each query is attended alone over the slots it can see: slots that have left the window may
// be there or not without changing a bit.
void attend(const AttendInput& in, View<float, 2> p, View<float, 2> out);

}  // namespace kvgrind::replay
