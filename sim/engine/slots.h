// The slots of one group (a layer and a cache head), a struct of arrays sorted by position. A slot is
// {position (identity), rotary position (where its key is rotated), count}.
#pragma once
#include <cstdint>
#include <vector>

#include "core/view.h"

namespace kvgrind::sim {

// The numbers are those of plans.h5.
enum class Content : std::uint8_t { dropped = 0, exact = 1, merged = 2, coded = 3, recomputable = 4, expired = 5 };
enum class Part : std::uint8_t { key, value };
// Whether one set of slots serves all query heads of a KV head, or each query head has its own copy.
enum class Granularity : std::uint8_t { kv_head, query_head };
enum class Tier : std::uint8_t { device = 0, host = 1, disk = 2 };

struct PartState {
  Content content = Content::exact;
  Tier tier = Tier::device;
  std::uint8_t codec = 0;  // index into the policy's codecs when coded
  bool operator==(const PartState&) const = default;
};

struct GroupSlots {
  std::int64_t head_dim = 0;
  std::vector<std::int64_t> position;
  std::vector<std::int64_t> rotary;
  std::vector<float> count;  // tokens this slot stands for; 1 = itself
  std::vector<PartState> k_state, v_state;
  std::vector<float> k, v;  // [n, D]; k post-RoPE at `rotary`
  std::int64_t size() const { return static_cast<std::int64_t>(position.size()); }
  View<const float, 2> keys() const { return {k.data(), {size(), head_dim}}; }
  View<const float, 2> values() const { return {v.data(), {size(), head_dim}}; }
};

}  // namespace kvgrind::sim
