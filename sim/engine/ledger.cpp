#include "sim/engine/ledger.h"

#include <fmt/format.h>

#include <stdexcept>

namespace kvgrind::sim {

void Ledger::check() const {
  for (const PartLedger* part : {&k, &v}) {
    std::int64_t sum = 0;
    for (const auto& tiers : part->tokens)
      for (const std::int64_t n : tiers) sum += n;
    if (sum != token_groups)
      throw std::logic_error(
          fmt::format("ledger of {}: {} tokens of all states, {} seen", part == &k ? "K" : "V", sum, token_groups));
  }
}

}  // namespace kvgrind::sim
