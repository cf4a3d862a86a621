#include "sim/engine/mean_rotation.h"

#include <cmath>

namespace kvgrind::sim {

Array<double, 2> mean_rotation(const RopeSet& set, std::int64_t dim, std::int64_t first, std::int64_t n) {
  Array<double, 2> r({dim, dim});
  for (std::int64_t d = 0; d < dim; ++d) r(d, d) = 1.0;
  const std::int64_t half = set.rotary_dim() / 2;
  for (std::int64_t m = 0; m < half; ++m) {
    double cosine = 0, sine = 0;
    for (std::int64_t t = first; t < first + n; ++t) {
      const float angle = static_cast<float>(t) * set.inv_freq[static_cast<std::size_t>(m)];
      cosine += std::cos(static_cast<double>(angle));
      sine += std::sin(static_cast<double>(angle));
    }
    const double factor = static_cast<double>(set.attention_factor) / static_cast<double>(n);
    r(m, m) = r(m + half, m + half) = cosine * factor;
    r(m, m + half) = -sine * factor;
    r(m + half, m) = sine * factor;
  }
  return r;
}

}  // namespace kvgrind::sim
