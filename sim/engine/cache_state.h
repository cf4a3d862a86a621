// The cache a policy owns, in both loops: the open loop feeds it recorded K and V, the closed loop's runtime its own.
// Copyable: a copy is a fork.
#pragma once
#include <memory>
#include <vector>

#include "core/model_card.h"
#include "sim/engine/ledger.h"
#include "sim/engine/plan.h"
#include "sim/engine/slots.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::sim {

enum class Granularity : std::uint8_t { kv_head, query_head };

class CacheState final : public KvCache {
 public:
  explicit CacheState(const ModelCard& card, Granularity granularity = Granularity::kv_head, std::int64_t page = 1);

  // KvCache
  std::int64_t heads() const override;
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override;
  GroupView read(std::int64_t layer, std::int64_t head) const override;

  const ModelCard& card() const { return card_; }
  std::int64_t layers() const { return card_.layers; }
  std::int64_t tokens(std::int64_t layer) const;  // appended so far
  const GroupSlots& group(std::int64_t layer, std::int64_t head) const;
  // Applies and checks a plan (sizes, merge indices); everything else stays.
  void apply(const GroupPlan& plan);
  void set_count_bias(bool on) { count_bias_ = on; }

  Ledger ledger() const;
  // State of every token's K (or V) of a group by position, as in plans.h5: content + 16 host, + 32 disk. [T]
  std::vector<std::uint8_t> token_states(std::int64_t layer, std::int64_t head, Part part) const;

 private:
  ModelCard card_;
  Granularity granularity_;
  std::int64_t page_ = 1;
  bool count_bias_ = false;
  std::vector<GroupSlots> groups_;                    // [L · heads]
  std::vector<std::vector<PartState>> k_seen_, v_seen_;  // [L · heads][T] by position
  std::vector<std::vector<float>> log_count_;         // [L · heads], filled when count bias is on
};

}  // namespace kvgrind::sim
