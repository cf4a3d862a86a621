#include "sim/model/cuda_cache.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace kvgrind::sim {
namespace {

std::int64_t element_offset(const CudaModel& model, std::int64_t layer, std::int64_t head, std::int64_t slot,
                            std::int64_t capacity) {
  const ModelCard& card = model.config.card;
  return ((layer * card.kv_heads + head) * capacity + slot) * card.head_dim * model.element();
}

}  // namespace

CudaCache::CudaCache(std::shared_ptr<const CudaModel> model, std::int64_t capacity)
    : model_(std::move(model)),
      layer_size_(static_cast<std::size_t>(model_->config.card.layers)),
      mirrors_(static_cast<std::size_t>(model_->config.card.layers * model_->config.card.kv_heads)) {
  kernels::use_device(model_->device);
  reserve(std::max<std::int64_t>(capacity, 64));
}

void CudaCache::reserve(std::int64_t tokens) {
  if (tokens <= capacity_) return;
  const ModelCard& card = model_->config.card;
  std::int64_t wanted = (tokens + 63) / 64 * 64;
  if (size_ > 0) wanted = std::max(wanted, capacity_ + capacity_ / 2);
  const std::int64_t row = card.head_dim * model_->element(), groups = card.layers * card.kv_heads;
  kernels::DeviceBuffer k(groups * wanted * row, "the KV cache"), v(groups * wanted * row, "the KV cache");
  const kernels::DeviceStream stream = model_->context->stream.get();
  if (size_ > 0) {
    kernels::copy_rows_on_device(k.as(), wanted * row, k_.as(), capacity_ * row, size_ * row, groups, stream);
    kernels::copy_rows_on_device(v.as(), wanted * row, v_.as(), capacity_ * row, size_ * row, groups, stream);
  }
  kernels::synchronize(stream);
  k_ = std::move(k), v_ = std::move(v);
  capacity_ = wanted;
  graphs.clear();
}

void CudaCache::set_size(std::int64_t tokens) {
  assert(tokens <= capacity_);
  size_ = tokens;
  std::fill(layer_size_.begin(), layer_size_.end(), tokens);
}

kernels::PlainCache CudaCache::view(std::int64_t layer) const {
  const std::int64_t at = element_offset(*model_, layer, 0, 0, capacity_);
  return {k_.as<std::byte>() + at, v_.as<std::byte>() + at, head_stride()};
}

void CudaCache::append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) {
  const ModelCard& card = model_->config.card;
  std::int64_t& held = layer_size_[static_cast<std::size_t>(layer)];
  assert(first == held && k.extent(1) == card.kv_heads);
  const std::int64_t n = k.extent(0), dims = card.head_dim;
  reserve(first + n);
  std::vector<float> rows(static_cast<std::size_t>(n * dims));
  std::vector<std::byte> bytes(static_cast<std::size_t>(n * dims * model_->element()));
  const kernels::DeviceStream stream = model_->context->stream.get();
  for (const bool values : {false, true})
    for (std::int64_t h = 0; h < card.kv_heads; ++h) {
      const View<const float, 3>& from = values ? v : k;
      for (std::int64_t t = 0; t < n; ++t)
        for (std::int64_t d = 0; d < dims; ++d) rows[static_cast<std::size_t>(t * dims + d)] = from(t, h, d);
      from_f32(model_->dtype(), rows.data(), n * dims, bytes.data());
      kernels::copy_to_device((values ? v_ : k_).as<std::byte>() + element_offset(*model_, layer, h, first, capacity_),
                              bytes.data(), static_cast<std::int64_t>(bytes.size()), stream);
      kernels::synchronize(stream);
    }
  held = first + n;
  size_ = *std::max_element(layer_size_.begin(), layer_size_.end());
}

GroupView CudaCache::read(std::int64_t layer, std::int64_t head) const {
  const ModelCard& card = model_->config.card;
  const std::int64_t n = layer_size_[static_cast<std::size_t>(layer)], dims = card.head_dim;
  Mirror& mirror = mirrors_[static_cast<std::size_t>(layer * card.kv_heads + head)];
  mirror.k.resize(static_cast<std::size_t>(n * dims));
  mirror.v.resize(static_cast<std::size_t>(n * dims));
  mirror.position.resize(static_cast<std::size_t>(n));
  std::iota(mirror.position.begin(), mirror.position.end(), 0);
  std::vector<std::byte> bytes(static_cast<std::size_t>(n * dims * model_->element()));
  kernels::use_device(model_->device);
  const kernels::DeviceStream stream = model_->context->stream.get();
  for (const bool values : {false, true}) {
    kernels::copy_to_host(bytes.data(),
                          (values ? v_ : k_).as<std::byte>() + element_offset(*model_, layer, head, 0, capacity_),
                          static_cast<std::int64_t>(bytes.size()), stream);
    kernels::synchronize(stream);
    to_f32(model_->dtype(), bytes.data(), n * dims, (values ? mirror.v : mirror.k).data());
  }
  return {{mirror.k.data(), {n, dims}}, {mirror.v.data(), {n, dims}}, mirror.position};
}

std::unique_ptr<CudaCache> CudaCache::fork(std::int64_t tokens, std::int64_t length) const {
  assert(tokens <= size_);
  auto out = std::make_unique<CudaCache>(model_, std::max(tokens, length));
  const ModelCard& card = model_->config.card;
  const std::int64_t row = card.head_dim * model_->element(), groups = card.layers * card.kv_heads;
  const kernels::DeviceStream stream = model_->context->stream.get();
  kernels::copy_rows_on_device(out->k_.as(), out->capacity_ * row, k_.as(), capacity_ * row, tokens * row, groups,
                               stream);
  kernels::copy_rows_on_device(out->v_.as(), out->capacity_ * row, v_.as(), capacity_ * row, tokens * row, groups,
                               stream);
  kernels::synchronize(stream);
  out->set_size(tokens);
  return out;
}

std::unique_ptr<KvCache> cuda_cache(std::shared_ptr<const CudaModel> model, std::int64_t length) {
  return std::make_unique<CudaCache>(std::move(model), length);
}

std::unique_ptr<KvCache> fork_cuda_cache(const KvCache& cache, std::int64_t tokens, std::int64_t length) {
  return dynamic_cast<const CudaCache&>(cache).fork(tokens, length);
}

kernels::PlainCache device_view(const KvCache& cache, std::int64_t layer) {
  return dynamic_cast<const CudaCache&>(cache).view(layer);
}

}  // namespace kvgrind::sim
