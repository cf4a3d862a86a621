// Array<T, R>: an owned, dense array of rank R (last axis fastest), zero-initialised.
#pragma once
#include <vector>

#include "core/view.h"

namespace kvgrind {

template <class T, int R>
class Array {
 public:
  using Extents = typename View<T, R>::Extents;

  Array() = default;
  explicit Array(const Extents& extents) : extents_(extents), values_(count(extents)) {}

  View<T, R> view() { return {values_.data(), extents_}; }
  View<const T, R> view() const { return {values_.data(), extents_}; }
  operator View<const T, R>() const { return view(); }

  template <class... I>
  T& operator()(I... index) { return view()(index...); }
  template <class... I>
  const T& operator()(I... index) const { return view()(index...); }

  T* data() { return values_.data(); }
  const T* data() const { return values_.data(); }
  std::int64_t extent(int axis) const { return extents_[axis]; }
  const Extents& extents() const { return extents_; }
  std::int64_t size() const { return static_cast<std::int64_t>(values_.size()); }
  bool empty() const { return values_.empty(); }

 private:
  static std::size_t count(const Extents& extents) {
    std::size_t n = 1;
    for (std::int64_t e : extents) n *= static_cast<std::size_t>(e);
    return n;
  }
  Extents extents_{};
  std::vector<T> values_;
};

}  // namespace kvgrind
