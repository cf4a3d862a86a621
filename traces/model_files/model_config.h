// config.json of the families llama, mistral, qwen2 and qwen3, in both generations (rope_theta + rope_scaling, or
// rope_parameters), with each family's defaults for missing keys.
//   source: huggingface/transformers configuration classes
#pragma once
#include <string_view>

#include "core/model_config.h"

namespace kvgrind::traces {

// `text` is config.json's content, `generation` that of generation_config.json (empty = none; its eos_token_id wins).
// Throws Error(damaged) naming the key: unknown family, mixture of experts, quantised weights, latent or linear
// attention, an activation other than silu, a size out of range.
ModelConfig parse_model_config(std::string_view text, std::string_view generation, std::string_view what);

}  // namespace kvgrind::traces
