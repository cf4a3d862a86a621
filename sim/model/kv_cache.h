// The KV cache of one sequence as the runtime sees it: an interface that a policy can own.
#pragma once
#include <cstdint>
#include <span>

#include "core/view.h"

namespace kvgrind::sim {

// What a query head may read: the slots of one (layer, cache head). Views are valid until the next append or event.
struct GroupView {
  View<const float, 2> k;                  // [n, D] post-RoPE
  View<const float, 2> v;                  // [n, D]
  std::span<const std::int64_t> position;  // [n] identity; causality and windows go by this
  const float* log_count = nullptr;        // [n] or null
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual std::int64_t heads() const = 0;  // Hk, or Hq when the cache is kept per query head
  // k (post-RoPE), v [n, Hk, D] of tokens at positions first…first+n−1, before that layer's attention runs.
  virtual void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) = 0;
  // What the queries [n, Hq, D] of this layer read. Called after append, before attention; per cache head.
  virtual GroupView read(std::int64_t layer, std::int64_t head) const = 0;
  // Before attention: a read policy may choose slots by query. q [n, Hq, D] post-RoPE. Default: read everything.
  virtual void before_attention(std::int64_t layer, std::int64_t first, View<const float, 3> q) {
    (void)layer, (void)first, (void)q;
  }
  // After the attention of this layer over tokens [first, first + n); q as above.
  virtual void layer_done(std::int64_t layer, std::int64_t first, View<const float, 3> q) {
    (void)layer, (void)first, (void)q;
  }
};

}  // namespace kvgrind::sim
