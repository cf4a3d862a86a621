// View<T, R>: a borrowed, strided array of rank R. Copies nothing, owns nothing.
#pragma once
#include <array>
#include <cassert>
#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define KVGRIND_HD __host__ __device__
#else
#define KVGRIND_HD
#endif

namespace kvgrind {

template <class T, int R>
class View {
 public:
  using Extents = std::array<std::int64_t, R>;

  KVGRIND_HD View() = default;

  // Dense, last axis fastest.
  KVGRIND_HD View(T* data, const Extents& extents) : data_(data), extents_(extents) {
    std::int64_t stride = 1;
    for (int axis = R - 1; axis >= 0; --axis) {
      strides_[axis] = stride;
      stride *= extents[axis];
    }
  }
  KVGRIND_HD View(T* data, const Extents& extents, const Extents& strides)
      : data_(data), extents_(extents), strides_(strides) {}

  // View<float> → View<const float>.
  template <class U>
    requires(std::is_same_v<T, const U>)
  KVGRIND_HD View(const View<U, R>& other)
      : data_(other.data()), extents_(other.extents()), strides_(other.strides()) {}

  template <class... I>
    requires(sizeof...(I) == R)
  KVGRIND_HD T& operator()(I... index) const {
    const std::int64_t at[R] = {static_cast<std::int64_t>(index)...};
    std::int64_t offset = 0;
    for (int axis = 0; axis < R; ++axis) {
      assert(at[axis] >= 0 && at[axis] < extents_[axis]);
      offset += at[axis] * strides_[axis];
    }
    return data_[offset];
  }

  // Fix the first axis: the sub-array at index i.
  KVGRIND_HD auto operator[](std::int64_t i) const {
    assert(i >= 0 && i < extents_[0]);
    if constexpr (R == 1) {
      return static_cast<T&>(data_[i * strides_[0]]);
    } else {
      std::array<std::int64_t, R - 1> extents{}, strides{};
      for (int axis = 1; axis < R; ++axis) {
        extents[axis - 1] = extents_[axis];
        strides[axis - 1] = strides_[axis];
      }
      return View<T, R - 1>(data_ + i * strides_[0], extents, strides);
    }
  }

  // Rows [begin, begin + count) of the first axis.
  KVGRIND_HD View slice(std::int64_t begin, std::int64_t count) const {
    assert(begin >= 0 && count >= 0 && begin + count <= extents_[0]);
    Extents extents = extents_;
    extents[0] = count;
    return View(data_ + begin * strides_[0], extents, strides_);
  }

  KVGRIND_HD T* data() const { return data_; }
  KVGRIND_HD std::int64_t extent(int axis) const { return extents_[axis]; }
  KVGRIND_HD std::int64_t stride(int axis) const { return strides_[axis]; }
  KVGRIND_HD const Extents& extents() const { return extents_; }
  KVGRIND_HD const Extents& strides() const { return strides_; }
  KVGRIND_HD std::int64_t size() const {
    std::int64_t n = 1;
    for (int axis = 0; axis < R; ++axis) n *= extents_[axis];
    return n;
  }
  KVGRIND_HD bool dense() const {
    std::int64_t stride = 1;
    for (int axis = R - 1; axis >= 0; --axis) {
      if (extents_[axis] > 1 && strides_[axis] != stride) return false;
      stride *= extents_[axis];
    }
    return true;
  }

 private:
  T* data_ = nullptr;
  Extents extents_{};
  Extents strides_{};
};

}  // namespace kvgrind
