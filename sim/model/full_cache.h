// The plain cache: keeps every token. Each head's keys and values lie contiguous and grow geometrically.
#pragma once
#include <vector>

#include "core/model_card.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::sim {

class FullCache final : public KvCache {  // copyable: a copy shares nothing
 public:
  explicit FullCache(const ModelCard& card);

  std::int64_t heads() const override { return heads_; }
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override;
  GroupView read(std::int64_t layer, std::int64_t head) const override;

  std::int64_t size(std::int64_t layer) const;  // tokens held in that layer
  void truncate(std::int64_t tokens);           // keeps the first `tokens` of every layer

 private:
  struct Head {
    std::vector<float> k, v;  // [n, D]
  };
  struct Layer {
    std::vector<Head> head;              // [Hk]
    std::vector<std::int64_t> position;  // [n]
  };
  std::int64_t heads_ = 0, dim_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace kvgrind::sim
