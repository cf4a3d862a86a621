// Handle<T, close, null>: a move-only owner of a C resource. Closing in the destructor never throws; writers that
// must report a failed close do so through their own close().
#pragma once
#include <utility>

namespace kvgrind {

template <class T, auto close, T null>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, null)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) reset(std::exchange(other.value_, null));
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  T get() const { return value_; }
  T release() { return std::exchange(value_, null); }
  void reset(T value = null) {
    if (value_ != null) (void)close(value_);
    value_ = value;
  }
  explicit operator bool() const { return value_ != null; }

 private:
  T value_ = null;
};

}  // namespace kvgrind
