#include "gui/models/category_raster.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "core/parallel.h"

namespace kvgrind::gui {

CategoryRaster::CategoryRaster(std::int64_t rows, std::int64_t tokens, std::vector<std::uint8_t> categories,
                               const CancelToken& cancel)
    : rows_(rows), tokens_(tokens), blocks_((tokens + block - 1) / block), categories_(std::move(categories)) {
  assert(static_cast<std::int64_t>(categories_.size()) == rows * tokens);
  std::array<bool, 256> seen{};
  for (const std::uint8_t one : categories_) seen[one] = true;
  std::array<std::int8_t, 256> place{};
  place.fill(-1);
  for (int i = 0; i < 64; ++i)
    if (seen[static_cast<std::size_t>(i)]) {
      place[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(present_.size());
      present_.push_back(static_cast<std::uint8_t>(i));
    }
  const auto n = static_cast<std::int64_t>(present_.size());
  before_.assign(static_cast<std::size_t>(rows_ * (blocks_ + 1) * n), 0);
  parallel_for(rows_, [&](std::int64_t r) {
    cancel.throw_if_cancelled();
    std::vector<std::int32_t> running(static_cast<std::size_t>(n), 0);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      if (t % block == 0)
        std::copy(running.begin(), running.end(), before_.begin() + (r * (blocks_ + 1) + t / block) * n);
      const std::int8_t at = place[this->at(r, t)];
      if (at >= 0) ++running[static_cast<std::size_t>(at)];
    }
    std::copy(running.begin(), running.end(), before_.begin() + (r * (blocks_ + 1) + blocks_) * n);
  });
}

void CategoryRaster::count(std::int64_t row, std::int64_t begin, std::int64_t end,
                           std::vector<std::int64_t>& counts) const {
  const std::size_t n = present_.size();
  counts.assign(n, 0);
  begin = std::max<std::int64_t>(0, begin);
  end = std::min(end, tokens_);
  if (begin >= end) return;
  if (end - begin >= 8 * block) {
    const std::int64_t first = begin / block, last = (end + block - 1) / block;
    const auto* low = &before_[static_cast<std::size_t>(row * (blocks_ + 1) + first) * n];
    const auto* high = &before_[static_cast<std::size_t>(row * (blocks_ + 1) + last) * n];
    for (std::size_t i = 0; i < n; ++i) counts[i] = high[i] - low[i];
    return;
  }
  for (std::int64_t t = begin; t < end; ++t) {
    const std::uint8_t one = at(row, t);
    for (std::size_t i = 0; i < n; ++i) counts[i] += present_[i] == one;
  }
}

}  // namespace kvgrind::gui
