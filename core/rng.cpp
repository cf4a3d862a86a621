#include "core/rng.h"

#include <cmath>
#include <numbers>

#include "core/hash.h"

namespace kvgrind {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

namespace {
std::array<std::uint32_t, 4> draw(const RandomKey& key, std::int64_t position) {
  // seed and name make the key; position, sequence, layer and head make the counter.
  const std::uint64_t k = hash_text(key.name) ^ (key.seed * 0x9E3779B97F4A7C15ull + 0x7F4A7C15ull);
  const auto p = static_cast<std::uint64_t>(position);
  const std::uint32_t place = (static_cast<std::uint32_t>(key.layer) << 16) ^ static_cast<std::uint32_t>(key.head);
  return philox4x32({static_cast<std::uint32_t>(p), static_cast<std::uint32_t>(p >> 32) ^ place,
                     static_cast<std::uint32_t>(key.sequence), static_cast<std::uint32_t>(key.sequence >> 32)},
                    {static_cast<std::uint32_t>(k), static_cast<std::uint32_t>(k >> 32)});
}
}  // namespace

float random_uniform(const RandomKey& key, std::int64_t position) {
  return static_cast<float>(draw(key, position)[0] >> 8) * 0x1p-24f;
}

std::uint64_t random_bits(const RandomKey& key, std::int64_t position) {
  const auto r = draw(key, position);
  return (std::uint64_t{r[1]} << 32) | r[0];
}

float random_normal(const RandomKey& key, std::int64_t position) {
  const auto r = draw(key, position);
  const double u = (static_cast<double>(r[0]) + 0.5) * 0x1p-32;
  const double v = static_cast<double>(r[1]) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

}  // namespace kvgrind
