// What every kernel test needs: inputs with outliers, outputs between guard bands, comparison that sees NaN and
// infinity first, and a loop over the instruction-set levels of the machine.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/view.h"
#include "kernels/isa/isa.h"

namespace kvgrind::tests {

// Standard normal; one value in fifty is forty times larger.
inline std::vector<float> random_values(std::mt19937_64& rng, std::int64_t n, float size = 1.0f) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = size * normal(rng) * (rng() % 50 == 0 ? 40.0f : 1.0f);
  return values;
}

// A strided matrix inside a buffer whose every other element holds a guard value: `pad` elements after each row, and
// `step` − 1 between neighbours.
class GuardedMatrix {
 public:
  GuardedMatrix(std::int64_t rows, std::int64_t columns, std::int64_t pad = 0, std::int64_t step = 1)
      : rows_(rows),
        columns_(columns),
        row_stride_(columns * step + pad),
        step_(step),
        buffer_(static_cast<std::size_t>(2 * band + rows * row_stride_), guard) {}
  GuardedMatrix(std::int64_t rows, std::int64_t columns, std::int64_t pad, std::int64_t step,
                const std::vector<float>& values)
      : GuardedMatrix(rows, columns, pad, step) {
    for (std::int64_t i = 0; i < rows * columns; ++i)
      view()(i / columns, i % columns) = values[static_cast<std::size_t>(i)];
  }

  View<float, 2> view() { return {buffer_.data() + band, {rows_, columns_}, {row_stride_, step_}}; }
  std::vector<float> values() {
    std::vector<float> all;
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < columns_; ++c) all.push_back(view()(r, c));
    return all;
  }
  bool guards_intact() {
    std::vector<float> copy = buffer_;
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::int64_t c = 0; c < columns_; ++c)
        copy[static_cast<std::size_t>(band + r * row_stride_ + c * step_)] = guard;
    for (const float value : copy)
      if (value != guard) return false;
    return true;
  }

 private:
  static constexpr std::int64_t band = 64;
  static constexpr float guard = -1234.5f;
  std::int64_t rows_, columns_, row_stride_, step_;
  std::vector<float> buffer_;
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// |found − expected| ≤ absolute + relative · |expected|, element by element; NaN and infinities must match first.
inline ::testing::AssertionResult near(const std::vector<float>& found, const std::vector<float>& expected,
                                       double absolute, double relative) {
  if (found.size() != expected.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < found.size(); ++i) {
    const float f = found[i], e = expected[i];
    if (std::isnan(f) != std::isnan(e) || std::isinf(f) != std::isinf(e))
      return ::testing::AssertionFailure() << "at " << i << ": " << f << ", expected " << e;
    if (std::isnan(e)) continue;
    if (std::isinf(e)) {
      if (f != e) return ::testing::AssertionFailure() << "at " << i << ": " << f << ", expected " << e;
      continue;
    }
    const double error = std::abs(static_cast<double>(f) - static_cast<double>(e));
    if (!(error <= absolute + relative * std::abs(static_cast<double>(e))))
      return ::testing::AssertionFailure() << "at " << i << ": " << f << ", expected " << e << ", error " << error;
  }
  return ::testing::AssertionSuccess();
}

// A reference that is all equal proves nothing.
inline bool degenerate(const std::vector<float>& values) {
  for (const float value : values)
    if (value != values[0]) return false;
  return values.size() > 1;
}

template <class Check>
void at_every_isa(Check&& check) {
  const kernels::Isa before = kernels::current_isa();
  for (const kernels::Isa isa : kernels::available_isas()) {
    SCOPED_TRACE("level " + std::string(kernels::isa_name(isa)));
    kernels::set_isa(isa);
    check();
  }
  kernels::set_isa(before);
}

// The thread count for one scope.
class Threads {
 public:
  explicit Threads(int n) : before_(thread_count()) { set_thread_count(n); }
  ~Threads() { set_thread_count(before_); }

 private:
  int before_;
};

}  // namespace kvgrind::tests
