#include "kernels/rope/rope.h"

#include <cassert>
#include <cmath>
#include <vector>

namespace kvgrind::kernels {
namespace {

// (c, s) of one row: x' = c·x_m − s·x_{m+r/2}, and its partner. `sign` is +1 to rotate forward, −1 to rotate back.
void rotate(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x, float sign, float factor) {
  const std::int64_t half = static_cast<std::int64_t>(set.inv_freq.size());
  assert(static_cast<std::int64_t>(position.size()) == x.extent(0) && 2 * half <= x.extent(2));
  std::vector<float> cosines(static_cast<std::size_t>(half)), sines(static_cast<std::size_t>(half));
  for (std::int64_t t = 0; t < x.extent(0); ++t) {
    const auto at = static_cast<float>(position[static_cast<std::size_t>(t)]);
    for (std::int64_t m = 0; m < half; ++m) {
      const float angle = at * set.inv_freq[static_cast<std::size_t>(m)];
      cosines[static_cast<std::size_t>(m)] = std::cos(angle) * factor;
      sines[static_cast<std::size_t>(m)] = sign * std::sin(angle) * factor;
    }
    for (std::int64_t h = 0; h < x.extent(1); ++h) {
      float* first = x.data() + t * x.stride(0) + h * x.stride(1);
      float* second = first + half * x.stride(2);
      const std::int64_t stride = x.stride(2);
      for (std::int64_t m = 0; m < half; ++m) {
        const float a = first[m * stride], b = second[m * stride];
        const float c = cosines[static_cast<std::size_t>(m)], s = sines[static_cast<std::size_t>(m)];
        first[m * stride] = a * c - b * s;
        second[m * stride] = b * c + a * s;
      }
    }
  }
}

void rotate_ref(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x, double sign,
                double factor) {
  const std::int64_t half = set.rotary_dim() / 2;
  for (std::int64_t t = 0; t < x.extent(0); ++t)
    for (std::int64_t h = 0; h < x.extent(1); ++h)
      for (std::int64_t m = 0; m < half; ++m) {
        // The angle is rounded to fp32 as in the model; everything after it is exact to double.
        const float angle =
            static_cast<float>(position[static_cast<std::size_t>(t)]) * set.inv_freq[static_cast<std::size_t>(m)];
        const double c = std::cos(static_cast<double>(angle)) * factor;
        const double s = sign * std::sin(static_cast<double>(angle)) * factor;
        const double a = static_cast<double>(x(t, h, m)), b = static_cast<double>(x(t, h, m + half));
        x(t, h, m) = static_cast<float>(a * c - b * s);
        x(t, h, m + half) = static_cast<float>(b * c + a * s);
      }
}

}  // namespace

void rope_apply(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x) {
  rotate(set, position, x, 1.0f, set.attention_factor);
}

void rope_undo(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x) {
  rotate(set, position, x, -1.0f, 1.0f / set.attention_factor);
}

void rope_apply_ref(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x) {
  rotate_ref(set, position, x, 1.0, static_cast<double>(set.attention_factor));
}

void rope_undo_ref(const RopeSet& set, std::span<const std::int64_t> position, View<float, 3> x) {
  rotate_ref(set, position, x, -1.0, 1.0 / static_cast<double>(set.attention_factor));
}

}  // namespace kvgrind::kernels
