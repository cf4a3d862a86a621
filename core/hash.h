// XXH3 64-bit hashes of bytes and texts (libxxhash). Used for slice checksums, trace, model and policy identity.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace kvgrind {

std::uint64_t hash_bytes(const void* data, std::int64_t size_bytes);
inline std::uint64_t hash_text(std::string_view text) {
  return hash_bytes(text.data(), static_cast<std::int64_t>(text.size()));
}
std::string hex(std::uint64_t hash);  // 16 lower-case digits

// The same hash over pieces fed in order.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void add(const void* data, std::int64_t size_bytes);
  void add_text(std::string_view text) { add(text.data(), static_cast<std::int64_t>(text.size())); }
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvgrind
