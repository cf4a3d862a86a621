#include "kernels/pool/pool.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace kvgrind::kernels {
namespace {

void check(std::span<const float> in, std::int64_t kernel, std::span<const float> out) {
  assert(kernel > 0 && kernel % 2 == 1 && in.size() == out.size() && in.data() != out.data());
  (void)in, (void)kernel, (void)out;
}

}  // namespace

// One pass over all outputs per tap, so that the inner loops vectorise; taps are added from left to right, as in the
// plain loop.
void pool_avg(std::span<const float> in, std::int64_t kernel, std::span<float> out) {
  check(in, kernel, out);
  const auto n = static_cast<std::int64_t>(in.size());
  const std::int64_t half = kernel / 2;
  std::fill(out.begin(), out.end(), 0.0f);
  for (std::int64_t tap = -half; tap <= half; ++tap) {
    const std::int64_t begin = std::max<std::int64_t>(0, -tap), end = std::min(n, n - tap);
    const float* from = in.data() + tap;
    float* to = out.data();
    for (std::int64_t i = begin; i < end; ++i) to[i] += from[i];
  }
  const auto divisor = static_cast<float>(kernel);
  for (float& value : out) value /= divisor;
}

void pool_max(std::span<const float> in, std::int64_t kernel, std::span<float> out) {
  check(in, kernel, out);
  const auto n = static_cast<std::int64_t>(in.size());
  const std::int64_t half = kernel / 2;
  std::fill(out.begin(), out.end(), -std::numeric_limits<float>::infinity());
  for (std::int64_t tap = -half; tap <= half; ++tap) {
    const std::int64_t begin = std::max<std::int64_t>(0, -tap), end = std::min(n, n - tap);
    const float* from = in.data() + tap;
    float* to = out.data();
    for (std::int64_t i = begin; i < end; ++i) to[i] = from[i] > to[i] || std::isnan(from[i]) ? from[i] : to[i];
  }
}

void pool_avg_ref(std::span<const float> in, std::int64_t kernel, std::span<float> out) {
  const auto n = static_cast<std::int64_t>(in.size());
  for (std::int64_t i = 0; i < n; ++i) {
    double sum = 0.0;
    for (std::int64_t j = i - kernel / 2; j <= i + kernel / 2; ++j)
      if (j >= 0 && j < n) sum += static_cast<double>(in[static_cast<std::size_t>(j)]);
    out[static_cast<std::size_t>(i)] = static_cast<float>(sum / static_cast<double>(kernel));
  }
}

void pool_max_ref(std::span<const float> in, std::int64_t kernel, std::span<float> out) {
  const auto n = static_cast<std::int64_t>(in.size());
  for (std::int64_t i = 0; i < n; ++i) {
    float largest = -std::numeric_limits<float>::infinity();
    for (std::int64_t j = i - kernel / 2; j <= i + kernel / 2; ++j) {
      if (j < 0 || j >= n) continue;
      const float value = in[static_cast<std::size_t>(j)];
      if (std::isnan(value) || std::isnan(largest))
        largest = std::numeric_limits<float>::quiet_NaN();
      else
        largest = std::max(largest, value);
    }
    out[static_cast<std::size_t>(i)] = largest;
  }
}

}  // namespace kvgrind::kernels
