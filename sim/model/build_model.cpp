// From configuration and named tensors to a model for the CPU.
#include <vector>

#include "core/parallel.h"
#include "sim/model/cuda_runtime.h"
#include "sim/model/model.h"
#include "sim/model/model_tensors.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {
namespace {

std::vector<float> values(const Tensor* tensor) {
  if (!tensor) return {};
  std::vector<float> out(static_cast<std::size_t>(tensor->elements()));
  to_f32(tensor->dtype, tensor->data, tensor->elements(), out.data());
  return out;
}

// Without the products' weights: what is asked of a model beside its passes.
ModelLayer bare_layer(const LayerTensors& t) {
  ModelLayer layer;
  layer.attention_norm = values(t.attention_norm);
  layer.output_weight = *t.o.weight;
  return layer;
}

ModelLayer pack_layer(const LayerTensors& t) {
  ModelLayer layer = bare_layer(t);
  layer.mlp_norm = values(t.mlp_norm);
  layer.q_norm = values(t.q_norm);
  layer.k_norm = values(t.k_norm);
  layer.qkv = kernels::pack_linear({t.q, t.k, t.v});
  layer.output = kernels::pack_linear({t.o});
  layer.gate_up = kernels::pack_linear({t.gate, t.up});
  layer.down = kernels::pack_linear({t.down});
  return layer;
}

std::shared_ptr<Model> bare_model(const ModelConfig& config, const Weights& weights, const ModelTensors& found) {
  auto model = std::make_shared<Model>();
  model->config = config;
  model->storage = weights.storage;
  model->embedding = *found.embedding;
  model->final_norm = values(found.final_norm);
  model->layers.resize(found.layers.size());
  return model;
}

}  // namespace

std::shared_ptr<const Model> build_model(const ModelConfig& config, const Weights& weights) {
  const ModelTensors found = find_tensors(config, weights);
  const std::shared_ptr<Model> model = bare_model(config, weights, found);
  parallel_for(config.card.layers, [&](std::int64_t l) {
    model->layers[static_cast<std::size_t>(l)] = pack_layer(found.layers[static_cast<std::size_t>(l)]);
  });
  model->head = kernels::pack_linear({{.weight = found.head}});
  return model;
}

std::shared_ptr<const Model> build_model_on_device(const ModelConfig& config, const Weights& weights,
                                                   const CudaOptions& options) {
  const ModelTensors found = find_tensors(config, weights);
  const std::shared_ptr<Model> model = bare_model(config, weights, found);
  for (std::size_t l = 0; l < found.layers.size(); ++l) model->layers[l] = bare_layer(found.layers[l]);
  model->device = build_cuda_model(config, weights, options);
  return model;
}

const CudaModel* device_of(const Model& model) { return model.device.get(); }

}  // namespace kvgrind::sim
