// The cache a policy owns, in both loops: the open loop feeds it recorded K and V, the closed loop's runtime its own.
// Copyable: a copy is a fork.
//
// In a layer with an attention window, tokens that no later query can see become `expired` and leave their slots: when
// the next token is appended, and when a policy is about to decide (`expire`).
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/model_card.h"
#include "sim/engine/ledger.h"
#include "sim/engine/plan.h"
#include "sim/engine/slots.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::sim {

// K and V of some slots: stored bytes, those of them that are not on the device, and slots to compute again.
struct SlotBytes {
  std::int64_t stored = 0, elsewhere = 0, recomputed = 0;
};

class CacheState final : public KvCache {
 public:
  explicit CacheState(const ModelCard& card, Granularity granularity = Granularity::kv_head, std::int64_t page = 1);

  // The same tokens in a cache of the wanted granularity: a copy, or a copy for each query head of what its KV head
  // holds. Not the other way round (std::logic_error).
  CacheState(const CacheState& other, Granularity granularity);

  // A copy that `room` more tokens can be appended to without moving what is there.
  CacheState with_room(std::int64_t room) const;

  // KvCache
  std::int64_t heads() const override;
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override;
  GroupView read(std::int64_t layer, std::int64_t head) const override;

  const ModelCard& card() const { return card_; }
  std::int64_t layers() const { return card_.layers; }
  std::int64_t tokens(std::int64_t layer) const;  // appended so far
  // Tokens seen that a query at position tokens(layer) can still see: what a fraction is a fraction of.
  std::int64_t reach(std::int64_t layer) const;
  const GroupSlots& group(std::int64_t layer, std::int64_t head) const;
  // Applies and checks a plan (sizes, merge indices: std::logic_error); everything else stays. Plans of different
  // groups may be applied at the same time once their codecs are adopted.
  void apply(const GroupPlan& plan);
  void adopt(const std::vector<std::shared_ptr<const Codec>>& codecs);  // makes codecs known; apply does it too
  // Tokens that a query at `next_query` cannot see any more leave the slots of the layer.
  void expire(std::int64_t layer, std::int64_t next_query);
  // Adds log count to the logits of slots that stand for several tokens.
  void set_count_bias(bool on);

  // Bytes of the current step: moves by plans since begin_step; what the last read of each layer touched and fetched
  // from other tiers (nothing noted: everything stored, where it is).
  void begin_step();
  void note_read(std::int64_t layer, std::optional<SlotBytes> bytes);
  SlotBytes slot_bytes(std::int64_t layer, std::int64_t head, std::span<const std::int32_t> slots) const;

  Ledger ledger() const;
  // State of every token's K (or V) of a group by position, as in plans.h5: content + 16 host, + 32 disk. [T]
  std::vector<std::uint8_t> token_states(std::int64_t layer, std::int64_t head, Part part) const;
  // Stored bytes of the group's K and V, shared codec state left out.
  std::int64_t stored_bytes(std::int64_t layer, std::int64_t head) const;

 private:
  struct Group {
    GroupSlots slots;
    std::vector<Content> gone;     // [T] by position: dropped or expired; exact = still in a slot
    std::vector<float> log_count;  // [slots] when count bias is on
    std::int64_t moved_bytes = 0;
    std::int64_t recomputed = 0;  // by plans of this step
    std::int64_t residual_bytes = 0;
    bool residual_once = false;
  };
  const Group& at(std::int64_t layer, std::int64_t head) const;
  Group& at(std::int64_t layer, std::int64_t head);
  std::int64_t part_bytes(const GroupSlots& slots, Part part, bool ideal) const;
  std::int64_t state_bytes(Part part, const PartState& state) const;
  std::size_t codec_index(const std::shared_ptr<const Codec>& codec) const;
  void merge(Group& group, const GroupPlan& plan) const;
  void encode(Group& group, const GroupPlan& plan) const;
  void rotate(std::int64_t layer, Group& group, const GroupPlan& plan) const;
  void move(Group& group, const GroupPlan& plan) const;
  void recompute(Group& group, const GroupPlan& plan) const;
  std::int64_t residual_bytes() const;
  void keep_only(Group& group, const std::vector<std::uint8_t>& keep, Content gone) const;
  void refresh_log_count(Group& group) const;

  ModelCard card_;
  Granularity granularity_;
  std::int64_t page_ = 1;
  bool count_bias_ = false;
  std::vector<Group> groups_;                        // [L · heads]
  std::vector<std::int64_t> tokens_;                 // [L]
  std::vector<std::optional<SlotBytes>> last_read_;  // [L]
  std::vector<std::shared_ptr<const Codec>> codecs_;
};

}  // namespace kvgrind::sim
