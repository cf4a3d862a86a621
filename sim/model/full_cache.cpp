#include "sim/model/full_cache.h"

#include <algorithm>
#include <cassert>

#include "sim/model/runtime.h"

namespace kvgrind::sim {
namespace {

// Rows of one head, appended; std::vector doubles its capacity as it grows.
void append_rows(View<const float, 3> in, std::int64_t head, std::vector<float>& out) {
  const std::int64_t n = in.extent(0), dim = in.extent(2);
  if (in.stride(2) == 1) {
    for (std::int64_t t = 0; t < n; ++t) {
      const float* row = in.data() + t * in.stride(0) + head * in.stride(1);
      out.insert(out.end(), row, row + dim);
    }
    return;
  }
  for (std::int64_t t = 0; t < n; ++t)
    for (std::int64_t d = 0; d < dim; ++d) out.push_back(in(t, head, d));
}

}  // namespace

FullCache::FullCache(const ModelCard& card)
    : heads_(card.kv_heads), dim_(card.head_dim), layers_(static_cast<std::size_t>(card.layers)) {
  for (Layer& layer : layers_) layer.head.resize(static_cast<std::size_t>(heads_));
}

void FullCache::append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) {
  assert(k.extent(1) == heads_ && k.extent(2) == dim_ && v.extents() == k.extents());
  Layer& into = layers_[static_cast<std::size_t>(layer)];
  for (std::int64_t h = 0; h < heads_; ++h) {
    append_rows(k, h, into.head[static_cast<std::size_t>(h)].k);
    append_rows(v, h, into.head[static_cast<std::size_t>(h)].v);
  }
  for (std::int64_t t = 0; t < k.extent(0); ++t) into.position.push_back(first + t);
}

GroupView FullCache::read(std::int64_t layer, std::int64_t head) const {
  const Layer& from = layers_[static_cast<std::size_t>(layer)];
  const Head& rows = from.head[static_cast<std::size_t>(head)];
  const auto n = static_cast<std::int64_t>(from.position.size());
  return {{rows.k.data(), {n, dim_}}, {rows.v.data(), {n, dim_}}, from.position};
}

std::int64_t FullCache::size(std::int64_t layer) const {
  return static_cast<std::int64_t>(layers_[static_cast<std::size_t>(layer)].position.size());
}

void FullCache::truncate(std::int64_t tokens) {
  for (Layer& layer : layers_) {
    const std::size_t n = std::min(layer.position.size(), static_cast<std::size_t>(tokens));
    layer.position.resize(n);
    for (Head& head : layer.head) {
      head.k.resize(n * static_cast<std::size_t>(dim_));
      head.v.resize(n * static_cast<std::size_t>(dim_));
    }
  }
}

std::unique_ptr<KvCache> full_cache(const ModelCard& card) { return std::make_unique<FullCache>(card); }

}  // namespace kvgrind::sim
