// Memory on cache-line boundaries, not initialised: a 64-byte vector that straddles two lines costs twice.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace kvgrind::kernels {

struct AlignedDelete {
  void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedDelete>;

inline AlignedBytes aligned_bytes(std::int64_t size_bytes) {
  const auto size = static_cast<std::size_t>(size_bytes > 64 ? size_bytes : 64);
  return AlignedBytes(static_cast<std::byte*>(::operator new (size, std::align_val_t{64})));
}

// Working memory of one call. It comes from, and goes back to, what its thread keeps (at most kept_scratch_bytes):
// fresh pages cost more than the arithmetic that small calls do in them.
constexpr std::int64_t kept_scratch_bytes = 32 << 20;

class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(std::int64_t size_bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least size_bytes; what was in it is lost when it has to grow.
  std::byte* grow(std::int64_t size_bytes);
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_);
  }

 private:
  std::byte* memory_ = nullptr;
  std::int64_t size_ = 0;
};

class ScratchFloats {
 public:
  float* get(std::int64_t n) {
    return reinterpret_cast<float*>(memory_.grow(n * static_cast<std::int64_t>(sizeof(float))));
  }
  float* data() const { return memory_.as<float>(); }

 private:
  Scratch memory_;
};

}  // namespace kvgrind::kernels
