// What a policy decided for every slot of a group. Only CacheState::apply changes a cache.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "sim/engine/codec.h"
#include "sim/engine/slots.h"

namespace kvgrind::sim {

// Contribution of slot `from` to slot `into` (indices into the group before the plan): into' = Σ weight · from.
// A destination without a term from itself keeps weight 1 of itself. Weights of K and V may differ (V-only merges:
// k_weight 0). The destination's count grows by count_weight · count[from].
struct MergeTerm {
  std::int32_t from = 0, into = 0;
  float k_weight = 0.0f, v_weight = 0.0f, count_weight = 1.0f;
};

struct GroupPlan {
  std::int64_t layer = 0, group = 0;
  std::vector<std::uint8_t> keep;             // [n] slot stays (K and V)
  std::vector<std::int8_t> k_codec, v_codec;  // [n] or empty
  std::vector<Tier> k_tier, v_tier;           // [n] or empty = unchanged
  std::vector<std::uint8_t> recompute;        // [n] or empty; 1 = becomes recomputable, 2 = is computed again: exact
  std::vector<MergeTerm> merges;              // applied before dropping
  std::vector<std::int64_t> rotary;           // [n] or empty: new rotary positions (re-rotation)
  std::vector<std::shared_ptr<const Codec>> codecs;
  // What recomputable tokens are computed from, bytes a token; once = the same bytes serve all layers.
  std::int64_t residual_bytes = 0;
  bool residual_once = false;
};

}  // namespace kvgrind::sim
