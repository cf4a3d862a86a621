// The ledger: K and V of every token in exactly one content state and one tier; bytes of each kind.
#pragma once
#include <array>
#include <cstdint>

#include "sim/engine/slots.h"

namespace kvgrind::sim {

struct PartLedger {
  std::array<std::array<std::int64_t, 3>, 6> tokens{};  // [content][tier] tokens of all groups
  std::int64_t ideal_bytes = 0;                         // information alone
  std::int64_t stored_bytes = 0;                        // with scales, indices, page rounding, windows
};

struct Ledger {
  PartLedger k, v;
  std::int64_t touched_bytes = 0;   // read by the last step
  std::int64_t moved_bytes = 0;     // between tiers by the last step
  std::int64_t token_groups = 0;    // tokens seen × groups: what the token counts of each part must sum to
  std::int64_t residual_bytes = 0;  // stored for recomputable tokens, beside K and V
  std::int64_t recomputed = 0;      // token-groups computed again by the last step
  std::int64_t full_bytes = 0;      // what the cache would hold without a policy

  std::int64_t stored_bytes() const { return k.stored_bytes + v.stored_bytes + residual_bytes; }
  std::int64_t ideal_bytes() const { return k.ideal_bytes + v.ideal_bytes + residual_bytes; }
  // Throws std::logic_error when tokens of a part do not sum to token_groups.
  void check() const;
};

}  // namespace kvgrind::sim
