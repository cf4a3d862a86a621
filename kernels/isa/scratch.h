// Memory on cache-line boundaries, not initialised: a 64-byte vector that straddles two lines costs twice.
#pragma once
#include <algorithm>
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
  return AlignedBytes(static_cast<std::byte*>(
      ::operator new (static_cast<std::size_t>(std::max<std::int64_t>(size_bytes, 64)), std::align_val_t{64})));
}

// Floats that grow on request and keep nothing when they do.
class ScratchFloats {
 public:
  float* get(std::int64_t n) {
    if (n > size_) {
      memory_ = aligned_bytes(n * static_cast<std::int64_t>(sizeof(float)));
      size_ = n;
    }
    return reinterpret_cast<float*>(memory_.get());
  }
  float* data() const { return reinterpret_cast<float*>(memory_.get()); }

 private:
  AlignedBytes memory_;
  std::int64_t size_ = 0;
};

}  // namespace kvgrind::kernels
