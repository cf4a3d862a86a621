#include "sim/model/model_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "core/error.h"

namespace kvgrind::sim {
namespace {

constexpr std::size_t most_unknown_named = 16;  // a foreign file may hold thousands

// Faults of the configuration alone, as texts "what is wrong".
std::vector<std::string> config_faults(const ModelConfig& config) {
  const ModelCard& card = config.card;
  std::vector<std::string> faults;
  const auto require = [&faults](bool good, std::string text) {
    if (!good) faults.push_back(std::move(text));
  };
  require(card.layers > 0 && card.query_heads > 0 && card.kv_heads > 0 && card.head_dim > 0 && card.hidden > 0 &&
              card.intermediate > 0 && card.vocab > 0,
          "layers, heads, head_dim, hidden, intermediate and vocab must all be positive");
  if (!faults.empty()) return faults;
  require(card.query_heads % card.kv_heads == 0,
          fmt::format("{} query heads cannot share {} kv heads evenly", card.query_heads, card.kv_heads));
  require(std::isfinite(card.scale) && card.scale > 0.0f, fmt::format("attention scale is {}", card.scale));
  require(config.activation == "silu", fmt::format("activation \"{}\" (only silu is supported)", config.activation));
  require(static_cast<std::int64_t>(card.layer.size()) == card.layers,
          fmt::format("{} layer entries for {} layers", card.layer.size(), card.layers));
  require(
      card.sinks.empty() || static_cast<std::int64_t>(card.sinks.size()) == card.layers * card.query_heads,
      fmt::format("{} attention sinks for {} layers of {} heads", card.sinks.size(), card.layers, card.query_heads));
  require(config.rope.size() == card.rope.size(),
          fmt::format("{} RoPE parameter sets, but {} frequency sets", config.rope.size(), card.rope.size()));
  for (std::size_t i = 0; i < card.rope.size(); ++i)
    require(card.rope[i].rotary_dim() > 0 && card.rope[i].rotary_dim() <= card.head_dim,
            fmt::format("RoPE set {} rotates {} of {} dims", i, card.rope[i].rotary_dim(), card.head_dim));
  for (std::size_t l = 0; l < card.layer.size(); ++l) {
    const int set = card.layer[l].rope_set;
    require(set >= 0 && static_cast<std::size_t>(set) < card.rope.size(),
            fmt::format("layer {} names RoPE set {} of {}", l, set, card.rope.size()));
    require(card.layer[l].window >= 0, fmt::format("layer {} has window {}", l, card.layer[l].window));
  }
  return faults;
}

// Hands out tensors by name, keeping account of what is missing, mis-shaped or never asked for.
class Reader {
 public:
  explicit Reader(const Weights& weights) : weights_(weights) {}

  const Tensor* need(const std::string& name, const std::vector<std::int64_t>& shape) {
    used_.insert(name);
    const Tensor* tensor = weights_.find(name);
    if (!tensor) {
      faults_.push_back(fmt::format("{} is missing (expected [{}])", name, fmt::join(shape, ", ")));
      return nullptr;
    }
    if (tensor->shape != shape) {
      faults_.push_back(
          fmt::format("{} is [{}], expected [{}]", name, fmt::join(tensor->shape, ", "), fmt::join(shape, ", ")));
      return nullptr;
    }
    return tensor;
  }

  kernels::LinearPart linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    kernels::LinearPart part;
    part.weight = need(name + ".weight", {out, in});
    if (bias) part.bias = need(name + ".bias", {out});
    return part;
  }

  void ignore(const std::string& name) { used_.insert(name); }

  // A tensor without a place here would silently change what the model computes, so it is a fault too. Rotary
  // frequencies, which old files store, follow from the configuration.
  std::vector<std::string> faults() const {
    std::vector<std::string> out = faults_;
    std::vector<std::string> unknown;
    for (const auto& [name, tensor] : weights_.tensors)
      if (!used_.contains(name) && !name.ends_with("rotary_emb.inv_freq")) unknown.push_back(name);
    for (std::size_t i = 0; i < unknown.size() && i < most_unknown_named; ++i)
      out.push_back(fmt::format("{} has no place in this configuration", unknown[i]));
    if (unknown.size() > most_unknown_named)
      out.push_back(fmt::format("{} more tensors have no place", unknown.size() - most_unknown_named));
    return out;
  }

 private:
  const Weights& weights_;
  std::set<std::string> used_;
  std::vector<std::string> faults_;
};

LayerTensors find_layer(Reader& reader, const ModelConfig& config, std::int64_t layer) {
  const ModelCard& card = config.card;
  const std::string at = fmt::format("model.layers.{}.", layer);
  const std::int64_t q_rows = card.query_heads * card.head_dim, k_rows = card.kv_heads * card.head_dim;
  LayerTensors t;
  t.attention_norm = reader.need(at + "input_layernorm.weight", {card.hidden});
  t.mlp_norm = reader.need(at + "post_attention_layernorm.weight", {card.hidden});
  if (config.qk_norm) {
    t.q_norm = reader.need(at + "self_attn.q_norm.weight", {card.head_dim});
    t.k_norm = reader.need(at + "self_attn.k_norm.weight", {card.head_dim});
  }
  t.q = reader.linear(at + "self_attn.q_proj", q_rows, card.hidden, config.qkv_bias);
  t.k = reader.linear(at + "self_attn.k_proj", k_rows, card.hidden, config.qkv_bias);
  t.v = reader.linear(at + "self_attn.v_proj", k_rows, card.hidden, config.qkv_bias);
  t.o = reader.linear(at + "self_attn.o_proj", card.hidden, q_rows, config.o_bias);
  t.gate = reader.linear(at + "mlp.gate_proj", card.intermediate, card.hidden, config.mlp_bias);
  t.up = reader.linear(at + "mlp.up_proj", card.intermediate, card.hidden, config.mlp_bias);
  t.down = reader.linear(at + "mlp.down_proj", card.hidden, card.intermediate, config.mlp_bias);
  return t;
}

[[noreturn]] void refuse(const ModelCard& card, const std::vector<std::string>& faults, const std::string& expected) {
  throw Error(Category::damaged, {.doing = "building model",
                                  .on = card.name.empty() ? card.family : card.name,
                                  .found = fmt::format("{}", fmt::join(faults, "; ")),
                                  .expected = expected});
}

}  // namespace

void check_config(const ModelConfig& config) {
  if (const auto faults = config_faults(config); !faults.empty()) refuse(config.card, faults, "a usable configuration");
}

ModelTensors find_tensors(const ModelConfig& config, const Weights& weights) {
  const ModelCard& card = config.card;
  check_config(config);
  Reader reader(weights);
  ModelTensors found;
  found.embedding = reader.need("model.embed_tokens.weight", {card.vocab, card.hidden});
  found.final_norm = reader.need("model.norm.weight", {card.hidden});
  found.head = found.embedding;
  // Some tied files store the head all the same; it is not read.
  if (config.tied_embeddings)
    reader.ignore("lm_head.weight");
  else
    found.head = reader.need("lm_head.weight", {card.vocab, card.hidden});
  for (std::int64_t l = 0; l < card.layers; ++l) found.layers.push_back(find_layer(reader, config, l));
  if (const auto faults = reader.faults(); !faults.empty())
    refuse(card, faults, fmt::format("the tensors of a {} model of {} layers", card.family, card.layers));
  return found;
}

}  // namespace kvgrind::sim
