// The tensors of a model by their place in it, found and checked: what both runtimes build from. Pointers are into the
// Weights they were found in.
#pragma once
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"
#include "kernels/linear/linear.h"

namespace kvgrind::sim {

struct LayerTensors {
  const Tensor *attention_norm = nullptr, *mlp_norm = nullptr;  // [hidden]
  const Tensor *q_norm = nullptr, *k_norm = nullptr;            // [D], or null
  kernels::LinearPart q, k, v, o, gate, up, down;
};

struct ModelTensors {
  const Tensor* embedding = nullptr;   // [vocab, hidden]
  const Tensor* final_norm = nullptr;  // [hidden]
  const Tensor* head = nullptr;        // [vocab, hidden]; the embedding when tied
  std::vector<LayerTensors> layers;
};

// Throws Error(damaged) naming every fault of the configuration, or every missing, mis-shaped or unknown tensor at
// once.
ModelTensors find_tensors(const ModelConfig& config, const Weights& weights);
// The configuration alone.
void check_config(const ModelConfig& config);

}  // namespace kvgrind::sim
