// What an amount alone gives a group, before an allocator redistributes it.
#pragma once
#include <cstdint>

#include "core/model_card.h"
#include "sim/engine/policy.h"

namespace kvgrind::sim {

struct BaseAmount {
  std::int64_t tokens = 0;
  double real = 0;  // before rounding
};

// tokens: those a fraction is of. fraction: floor(n · keep + 1e-9), at least 1. removed: int(n · (1 − ratio)) in
// binary64, may be 0. tokens: as asked. bytes: of the whole cache in uncompressed tokens, an equal share for each of
// its L · Hk groups (`heads` = cache heads of a layer; a cache per query head stores more copies for the same bytes).
BaseAmount base_amount(const Amount& amount, std::int64_t tokens, const ModelCard& card, std::int64_t heads);

}  // namespace kvgrind::sim
