// A plain cache on the device: k and v [L, Hk, capacity, D] of the model's dtype, slot = position.
#pragma once
#include <memory>
#include <vector>

#include "sim/model/cuda_model.h"
#include "sim/model/cuda_runtime.h"

namespace kvgrind::sim {

class CudaCache final : public KvCache {
 public:
  CudaCache(std::shared_ptr<const CudaModel> model, std::int64_t capacity);

  std::int64_t heads() const override { return model_->config.card.kv_heads; }
  // From host memory, and back to it: for callers that know nothing of devices. The runtime's own passes use neither.
  void append(std::int64_t layer, std::int64_t first, View<const float, 3> k, View<const float, 3> v) override;
  GroupView read(std::int64_t layer, std::int64_t head) const override;

  const std::shared_ptr<const CudaModel>& model() const { return model_; }
  std::int64_t size() const { return size_; }
  std::int64_t capacity() const { return capacity_; }
  // Room for `tokens` tokens; what is held moves along.
  void reserve(std::int64_t tokens);
  // The runtime wrote slots up to `tokens` in every layer.
  void set_size(std::int64_t tokens);
  kernels::PlainCache view(std::int64_t layer) const;
  std::int64_t head_stride() const { return capacity_ * model_->config.card.head_dim; }
  std::unique_ptr<CudaCache> fork(std::int64_t tokens, std::int64_t length) const;

  // The decode step as a graph, and what it was captured for.
  struct StepGraph {
    kernels::GraphHandle graph;
    StepRing ring;
    bool logits = false;
    std::int64_t generation = -1;
  };
  std::vector<StepGraph> graphs;

 private:
  struct Mirror {
    std::vector<float> k, v;
    std::vector<std::int64_t> position;
  };
  std::shared_ptr<const CudaModel> model_;
  std::int64_t capacity_ = 0, size_ = 0;
  kernels::DeviceBuffer k_, v_;
  std::vector<std::int64_t> layer_size_;  // of layers appended to from the host
  mutable std::vector<Mirror> mirrors_;   // [L · Hk], filled by read
};

}  // namespace kvgrind::sim
