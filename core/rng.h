// Counter-based random numbers (Philox 4x32-10): the value depends on its key alone, never on call order or threads.
// Key = (seed, sequence, layer, head, position, primitive name); never the budget, so random sets nest over budgets.
// Source: Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace kvgrind {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

struct RandomKey {
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;
  std::int32_t layer = 0;
  std::int32_t head = 0;
  std::string_view name;  // primitive or purpose
};

// Uniform in [0, 1), 24 bits, for one position of the key.
float random_uniform(const RandomKey& key, std::int64_t position);
// Uniform 64-bit integer for one position of the key.
std::uint64_t random_bits(const RandomKey& key, std::int64_t position);
// Standard normal (Box–Muller) for one position of the key.
float random_normal(const RandomKey& key, std::int64_t position);

}  // namespace kvgrind
