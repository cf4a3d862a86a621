// What a one-dimensional convolution reads: keys and values of each token and its neighbours, side by side.
#pragma once
#include <cstdint>
#include <span>

#include "core/array.h"

namespace kvgrind::sim {

// For token t of the list: k and v of tokens t − width/2 … t + width/2 of the list (width odd), zeros outside:
// [list, width · 2D], k before v, neighbour by neighbour.
inline Array<float, 2> neighbourhoods(View<const float, 2> k, View<const float, 2> v,
                                      std::span<const std::int32_t> list, std::int64_t width) {
  const auto n = static_cast<std::int64_t>(list.size());
  const std::int64_t dim = k.extent(1);
  Array<float, 2> out({n, width * 2 * dim});
  for (std::int64_t t = 0; t < n; ++t)
    for (std::int64_t w = 0; w < width; ++w) {
      const std::int64_t from = t + w - width / 2;
      if (from < 0 || from >= n) continue;
      const std::int64_t slot = list[static_cast<std::size_t>(from)];
      for (std::int64_t d = 0; d < dim; ++d) {
        out(t, w * 2 * dim + d) = k(slot, d);
        out(t, w * 2 * dim + dim + d) = v(slot, d);
      }
    }
  return out;
}

}  // namespace kvgrind::sim
