#include "sim/model/model.h"

#include <cassert>

#include "core/array.h"
#include "sim/model/runtime.h"

namespace kvgrind::sim {

const ModelConfig& model_config(const Model& model) { return model.config; }

Array<float, 2> output_projection(const Model& model, std::int64_t layer) {
  assert(layer >= 0 && layer < model.config.card.layers);
  const Tensor& stored = model.layers[static_cast<std::size_t>(layer)].output_weight;
  Array<float, 2> out({stored.shape[0], stored.shape[1]});
  to_f32(stored.dtype, stored.data, stored.elements(), out.data());
  return out;
}

const Tensor& token_embedding(const Model& model) { return model.embedding; }

std::span<const float> attention_norm(const Model& model, std::int64_t layer) {
  assert(layer >= 0 && layer < model.config.card.layers);
  return model.layers[static_cast<std::size_t>(layer)].attention_norm;
}

}  // namespace kvgrind::sim
