// Everything the runtime needs besides weights: config.json, normalised (both generations, family defaults applied).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/model_card.h"

namespace kvgrind {

// Raw rotary parameters; frequencies follow from them, and for dynamic and longrope from the announced length too.
struct RopeParameters {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  double partial_rotary_factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;   // llama3
  double beta_fast = 32.0, beta_slow = 1.0;               // yarn
  std::optional<double> attention_factor, mscale, mscale_all_dim;
  bool truncate = true;
  std::int64_t original_max_positions = 0;                // 0 = max_positions
  std::vector<double> short_factor, long_factor;          // longrope
  bool operator==(const RopeParameters&) const = default;
};

struct ModelConfig {
  ModelCard card;                    // rope filled for card.max_positions; resolve_rope refills for a run's length
  std::vector<RopeParameters> rope;  // one per card.rope entry
  float rms_eps = 1e-6f;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;              // RMS norm over head_dim of q and k, before RoPE
  bool tied_embeddings = false;
  std::string activation = "silu";
  std::vector<std::int32_t> eos;
  std::int32_t bos = -1;             // -1 = none
};

// Frequencies of every set for a run of `length` tokens (announced; matters to dynamic and longrope only).
std::vector<RopeSet> resolve_rope(const ModelConfig& config, std::int64_t length);

}  // namespace kvgrind
