// What a reader of attention must know of a model: shapes, scaling, RoPE, windows. Stored in every trace.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace kvgrind {

// One set of rotary frequencies. Half-split pairing: dims (m, m + rotary_dim/2) rotate by position · inv_freq[m];
// dims from rotary_dim on pass through. cos and sin are multiplied by attention_factor.
struct RopeSet {
  std::string type = "default";  // default | linear | dynamic | llama3 | yarn | longrope
  std::vector<float> inv_freq;   // [rotary_dim / 2]
  float attention_factor = 1.0f;
  std::int64_t rotary_dim() const { return 2 * static_cast<std::int64_t>(inv_freq.size()); }
  bool operator==(const RopeSet&) const = default;
};

struct LayerCard {
  std::int64_t window = 0;  // a query at i sees keys j with i - j < window; 0 = all
  int rope_set = 0;         // index into ModelCard::rope
  bool operator==(const LayerCard&) const = default;
};

struct ModelCard {
  std::string family;            // llama | mistral | qwen2 | qwen3 | …
  std::string name;              // folder or hub name, for people
  std::int64_t layers = 0;       // L
  std::int64_t query_heads = 0;  // Hq
  std::int64_t kv_heads = 0;     // Hk
  std::int64_t head_dim = 0;     // D
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t vocab = 0;
  std::int64_t max_positions = 0;
  DType dtype = DType::f32;  // what the run's K, V, Q are: in memory and in the trace
  // What a serving cache of this model holds, and every ledger charges: the dtype of its weights. Absent = dtype.
  std::optional<DType> cache_dtype;
  float scale = 0.0f;    // logits = scale · q·k
  float softcap = 0.0f;  // cap · tanh(logit / cap) before the mask; 0 = none
  std::vector<RopeSet> rope;
  std::vector<LayerCard> layer;  // [L]
  std::vector<float> sinks;      // attention-sink logits [L · Hq], empty = none
  std::string model_hash;        // content hash of the weights, 16 hex digits

  std::int64_t group() const { return query_heads / kv_heads; }  // G
  DType charged_dtype() const { return cache_dtype.value_or(dtype); }
  std::int64_t kv_bytes_per_token_group() const { return 2 * head_dim * size_bytes(charged_dtype()); }  // K and V
  std::int64_t kv_bytes_per_token() const { return layers * kv_heads * kv_bytes_per_token_group(); }
  bool operator==(const ModelCard&) const = default;
};

}  // namespace kvgrind
