// The model runtime on the CPU: decoder-only transformers of the Llama, Mistral, Qwen2 and Qwen3 families, fp32
// arithmetic over weights of any stored type. Offers a tap; knows nothing of files, recorders or policies.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/array.h"
#include "core/model_config.h"
#include "core/tap.h"
#include "core/weights.h"
#include "sim/model/kv_cache.h"

namespace kvgrind::sim {

class Model;  // immutable, shared between threads and runs

// Throws Error(damaged) naming every missing or mis-shaped tensor at once.
std::shared_ptr<const Model> build_model(const ModelConfig& config, const Weights& weights);
const ModelConfig& model_config(const Model& model);
// W_O of a layer, [hidden, Hq · D] f32 (for output error and value-weighted scores).
Array<float, 2> output_projection(const Model& model, std::int64_t layer);
// Norm weights of the attention input, [hidden].
std::span<const float> attention_norm(const Model& model, std::int64_t layer);

// The table of token embeddings [vocab, hidden], as stored; lives as long as the model.
const Tensor& token_embedding(const Model& model);

// Plain cache: keeps everything. Grows as needed; copyable (forks share nothing).
std::unique_ptr<KvCache> full_cache(const ModelCard& card);

// A piece of one sequence: tokens fed at positions first, first+1, … into its cache.
struct Feed {
  std::int64_t sequence = 0;
  std::int64_t first = 0;
  std::span<const std::int32_t> ids;
  KvCache* cache = nullptr;
  Tap* tap = nullptr;                   // may be null
  bool decode = false;                  // tell the tap that this is a generation step
  std::vector<std::int64_t> logits_of;  // row indices whose logits are wanted
};

struct RunOptions {
  std::int64_t announced_length = 0;  // fixes dynamic and longrope frequencies; 0 = the model's max_positions
};

// One forward pass over all feeds as one batch (dense products joint over all rows, attention per feed). Feeds of one
// call must use different caches. Returns logits per feed, [logits_of.size(), vocab].
std::vector<Array<float, 2>> forward(const Model& model, std::span<const Feed> feeds, const RunOptions& options = {});

// Chunked prefill of one sequence; chunk is rounded up to a multiple of 64 (bitwise equal to one whole pass).
// Returns the logits of the rows asked for (indices into ids).
Array<float, 2> prefill(const Model& model, const Feed& feed, std::int64_t chunk = 512, const RunOptions& options = {});

struct Sampling {
  float temperature = 0.0f;  // 0 = greedy (ties: lowest id)
  float top_p = 1.0f;
  std::int64_t top_k = 0;  // 0 = off
  std::uint64_t seed = 0;  // counter-based: token t of sequence s draws from (seed, s, t)
};
std::int32_t sample(std::span<const float> logits, const Sampling& sampling, std::int64_t sequence,
                    std::int64_t position);

// −log softmax(logits)[id], in double.
double negative_log_probability(std::span<const float> logits, std::int32_t id);

}  // namespace kvgrind::sim
