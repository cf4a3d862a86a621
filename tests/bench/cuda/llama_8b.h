// The shape that the device benchmarks speak of: Llama-3.1-8B, random weights.
#pragma once
#include "core/model_config.h"

namespace kvgrind::bench {

inline ModelConfig llama_8b(std::int64_t layers = 32) {
  ModelConfig config;
  ModelCard& card = config.card;
  card.family = "llama", card.name = "Llama-3.1-8B shape, random weights";
  card.layers = layers, card.query_heads = 32, card.kv_heads = 8, card.head_dim = 128;
  card.hidden = 4096, card.intermediate = 14336, card.vocab = 128256, card.max_positions = 131072;
  card.dtype = DType::bf16;
  card.scale = 0.08838834764f;
  card.layer.resize(static_cast<std::size_t>(layers));
  config.rope = {RopeParameters{.type = "llama3", .theta = 500000.0, .factor = 8.0, .original_max_positions = 8192}};
  card.rope = resolve_rope(config, card.max_positions);
  config.rms_eps = 1e-5f;
  return config;
}

}  // namespace kvgrind::bench
