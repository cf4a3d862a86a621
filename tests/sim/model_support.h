// What the tests of the model runtime share: models from folders and from random numbers, a tap that keeps everything.
#pragma once
#include <cmath>
#include <filesystem>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/rng.h"
#include "sim/model/full_cache.h"
#include "sim/model/runtime.h"
#include "traces/model_files/model_folder.h"

namespace kvgrind::tests {

inline std::filesystem::path source_dir() { return KVGRIND_SOURCE_DIR; }
inline std::filesystem::path tiny_3m() { return source_dir() / "traces/examples/tiny-3m"; }

struct LoadedModel {
  ModelConfig config;
  std::shared_ptr<const sim::Model> model;
};

inline LoadedModel load_model(const std::filesystem::path& folder) {
  ModelConfig config = traces::read_model_config(folder);
  return {config, sim::build_model(config, traces::read_weights(folder, false))};
}

// A small model of random numbers, every part of it large enough to matter.
struct RandomModel {
  ModelConfig config;
  Weights weights;

  explicit RandomModel(std::int64_t layers = 2, std::int64_t query_heads = 4, std::int64_t kv_heads = 2) {
    ModelCard& card = config.card;
    card.family = card.name = "random";
    card.layers = layers, card.query_heads = query_heads, card.kv_heads = kv_heads;
    card.head_dim = 12, card.hidden = 40, card.intermediate = 56, card.vocab = 70, card.max_positions = 512;
    card.scale = 1.0f / std::sqrt(12.0f);
    card.layer.resize(static_cast<std::size_t>(layers));
    config.rope = {RopeParameters{.theta = 500.0}};
    card.rope = resolve_rope(config, card.max_positions);
  }

  Tensor& add(const std::string& name, std::vector<std::int64_t> shape, float spread, float mean = 0.0f) {
    Tensor tensor{.shape = std::move(shape)};
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(tensor.elements()));
    for (std::size_t i = 0; i < values->size(); ++i)
      (*values)[i] = mean + spread * random_normal({.seed = 5, .name = name}, static_cast<std::int64_t>(i));
    tensor.data = reinterpret_cast<const std::byte*>(values->data());
    weights.storage.push_back(values);
    return weights.tensors[name] = tensor;
  }

  void linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    add(name + ".weight", {out, in}, 1.5f / std::sqrt(static_cast<float>(in)));
    if (bias) add(name + ".bias", {out}, 0.3f);
  }

  // Call after the configuration is as wanted.
  RandomModel& fill() {
    const ModelCard& card = config.card;
    const std::int64_t q_rows = card.query_heads * card.head_dim, k_rows = card.kv_heads * card.head_dim;
    add("model.embed_tokens.weight", {card.vocab, card.hidden}, 1.0f);
    add("model.norm.weight", {card.hidden}, 0.2f, 1.0f);
    if (!config.tied_embeddings) linear("lm_head", card.vocab, card.hidden, false);
    for (std::int64_t l = 0; l < card.layers; ++l) {
      const std::string at = "model.layers." + std::to_string(l) + ".";
      add(at + "input_layernorm.weight", {card.hidden}, 0.2f, 1.0f);
      add(at + "post_attention_layernorm.weight", {card.hidden}, 0.2f, 1.0f);
      if (config.qk_norm) {
        add(at + "self_attn.q_norm.weight", {card.head_dim}, 0.2f, 1.0f);
        add(at + "self_attn.k_norm.weight", {card.head_dim}, 0.2f, 1.0f);
      }
      linear(at + "self_attn.q_proj", q_rows, card.hidden, config.qkv_bias);
      linear(at + "self_attn.k_proj", k_rows, card.hidden, config.qkv_bias);
      linear(at + "self_attn.v_proj", k_rows, card.hidden, config.qkv_bias);
      linear(at + "self_attn.o_proj", card.hidden, q_rows, config.o_bias);
      linear(at + "mlp.gate_proj", card.intermediate, card.hidden, config.mlp_bias);
      linear(at + "mlp.up_proj", card.intermediate, card.hidden, config.mlp_bias);
      linear(at + "mlp.down_proj", card.hidden, card.intermediate, config.mlp_bias);
    }
    return *this;
  }

  std::shared_ptr<const sim::Model> build() const { return sim::build_model(config, weights); }
};

inline std::vector<std::int32_t> random_ids(std::int64_t n, std::int64_t vocab, std::uint64_t seed = 1) {
  std::mt19937_64 rng(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  for (auto& id : ids) id = static_cast<std::int32_t>(rng() % static_cast<std::uint64_t>(vocab));
  return ids;
}

inline std::vector<std::int64_t> all_rows(std::int64_t n) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(n));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// Logits of every row of one whole pass over a fresh cache.
inline Array<float, 2> whole_pass(const sim::Model& model, std::span<const std::int32_t> ids, Tap* tap = nullptr,
                                  const sim::RunOptions& options = {}) {
  const auto cache = sim::full_cache(sim::model_config(model).card);
  const sim::Feed feed{
      .ids = ids, .cache = cache.get(), .tap = tap, .logits_of = all_rows(static_cast<std::int64_t>(ids.size()))};
  return std::move(sim::forward(model, {&feed, 1}, options)[0]);
}

// Largest absolute difference; NaN when any value is NaN, so compare with !(… <= tolerance).
inline double largest_difference(std::span<const float> a, std::span<const float> b) {
  double largest = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= largest)) largest = d;
    if (std::isnan(d)) return d;
  }
  return largest;
}
inline std::span<const float> flat(const Array<float, 2>& a) { return {a.data(), static_cast<std::size_t>(a.size())}; }

// Everything a tap is shown, row after row over all passes.
class KeepingTap : public Tap {
 public:
  explicit KeepingTap(std::int64_t layers, bool probabilities = false, bool all_logits = false)
      : layers_(static_cast<std::size_t>(layers)), wants_probabilities_(probabilities), wants_all_logits_(all_logits) {}

  struct Layer {
    std::vector<float> q, q_pre, k, v, lse, input, attn_in, attn_out;  // [T, …]
    // [Hq][keys]: sum of each block of 64 first, then over blocks; last row seen
    std::vector<std::vector<float>> column_sum, last;
    std::int64_t blocks = 0;
  };

  bool wants_probabilities(std::int64_t) const override { return wants_probabilities_; }
  bool wants_all_logits() const override { return wants_all_logits_; }
  void begin(const TapPass& pass) override { passes.push_back(pass.first); }
  void probabilities(const TapProbabilities& shown) override {
    const std::lock_guard lock(mutex_);
    Layer& to = layers_[static_cast<std::size_t>(shown.layer)];
    ++to.blocks;
    const auto head = static_cast<std::size_t>(shown.head);
    if (to.column_sum.size() <= head) to.column_sum.resize(head + 1), to.last.resize(head + 1);
    std::int64_t keys = static_cast<std::int64_t>(to.column_sum[head].size());
    for (const std::int64_t position : shown.key_position) keys = std::max(keys, position + 1);
    to.column_sum[head].resize(static_cast<std::size_t>(keys));
    to.last[head].assign(static_cast<std::size_t>(keys), 0.0f);
    for (std::int64_t j = 0; j < shown.p.extent(1); ++j) {
      float block = 0.0f;
      for (std::int64_t i = 0; i < shown.p.extent(0); ++i) block += shown.p(i, j);
      const auto at = static_cast<std::size_t>(shown.key_position[static_cast<std::size_t>(j)]);
      to.column_sum[head][at] += block;
      to.last[head][at] = shown.p(shown.p.extent(0) - 1, j);
    }
  }
  void layer(const TapLayer& shown) override {
    Layer& to = layers_[static_cast<std::size_t>(shown.layer)];
    append(shown.q, to.q), append(shown.q_pre, to.q_pre), append(shown.k, to.k), append(shown.v, to.v);
    append(shown.lse, to.lse), append(shown.input, to.input);
    append(shown.attn_in, to.attn_in), append(shown.attn_out, to.attn_out);
  }
  void end(const TapEnd& shown) override {
    append(shown.final_residual, final_residual);
    append(shown.logits, logits);
    logit_rows.insert(logit_rows.end(), shown.logit_rows.begin(), shown.logit_rows.end());
  }

  const Layer& at(std::int64_t layer) const { return layers_[static_cast<std::size_t>(layer)]; }

  std::vector<std::int64_t> passes, logit_rows;
  std::vector<float> final_residual, logits;

 private:
  static void append(View<const float, 2> from, std::vector<float>& to) {
    for (std::int64_t i = 0; i < from.extent(0); ++i)
      for (std::int64_t j = 0; j < from.extent(1); ++j) to.push_back(from(i, j));
  }
  static void append(View<const float, 3> from, std::vector<float>& to) {
    for (std::int64_t i = 0; i < from.extent(0); ++i) append(from[i], to);
  }
  std::vector<Layer> layers_;
  bool wants_probabilities_, wants_all_logits_;
  std::mutex mutex_;
};

}  // namespace kvgrind::tests
