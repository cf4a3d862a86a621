#include "core/hash.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

namespace kvgrind {

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_64bits_reset(state_->xxh); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
void Hasher::add(const void* data, std::int64_t size_bytes) {
  XXH3_64bits_update(state_->xxh, data, static_cast<std::size_t>(size_bytes));
}
std::uint64_t Hasher::digest() const { return XXH3_64bits_digest(state_->xxh); }

std::uint64_t hash_bytes(const void* data, std::int64_t size_bytes) {
  return XXH3_64bits(data, static_cast<std::size_t>(size_bytes));
}
std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

}  // namespace kvgrind
