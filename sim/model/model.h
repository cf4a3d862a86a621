// The built model, shared by the files of this folder.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/model_config.h"
#include "core/weights.h"
#include "kernels/linear/linear.h"

namespace kvgrind::sim {

struct ModelLayer {
  std::vector<float> attention_norm, mlp_norm;  // [hidden]
  std::vector<float> q_norm, k_norm;            // [D]; empty without qk-norm
  kernels::PackedLinear qkv;                    // [(Hq + 2·Hk)·D, hidden]: q heads, k heads, v heads
  kernels::PackedLinear output;                 // [hidden, Hq·D]
  kernels::PackedLinear gate_up;                // [2·intermediate, hidden]: gate, then up
  kernels::PackedLinear down;                   // [hidden, intermediate]
  Tensor output_weight;                         // W_O as stored
};

class CudaModel;

class Model {
 public:
  ModelConfig config;
  std::shared_ptr<const CudaModel> device;  // where the passes run; then no product is packed
  Tensor embedding;                         // [vocab, hidden], as stored
  std::vector<ModelLayer> layers;
  std::vector<float> final_norm;                     // [hidden]
  kernels::PackedLinear head;                        // [vocab, hidden]; the embedding when tied
  std::vector<std::shared_ptr<const void>> storage;  // keeps the bytes of `embedding` and `output_weight` alive
};

}  // namespace kvgrind::sim
