// What learned heads read of a token: its queries and keys before rotation and its values, all heads side by side.
#pragma once
#include "sim/engine/primitive.h"

namespace kvgrind::sim {

// (Hq + 2·Hk)·D
inline std::int64_t feature_count(const ModelCard& card) {
  return (card.query_heads + 2 * card.kv_heads) * card.head_dim;
}
// Rows for the context's slots at positions ≥ first: [those slots, features]. Every cache head must still hold them:
// Error(usage).
Array<float, 2> token_features(const ScoreContext& context, std::int64_t first);

}  // namespace kvgrind::sim
