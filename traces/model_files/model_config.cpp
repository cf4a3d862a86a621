#include "traces/model_files/model_config.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "traces/model_files/config_keys.h"
#include "traces/model_files/rope_keys.h"

namespace kvgrind::traces {
namespace {

constexpr std::int64_t max_length = std::numeric_limits<std::int32_t>::max();
const char* other_models = "record it with the PyTorch hook instead";

// What a missing key means, by family.
struct Family {
  const char* name;
  const char* architecture;
  std::int64_t kv_heads;  // 0 = as many as query heads
  std::int64_t head_dim;  // 0 = hidden / heads
  std::int64_t max_positions;
  std::int64_t bos, eos;  // -1 = none
  bool window_on;         // sliding_window counts without use_sliding_window, in every layer
  bool window_switch;     // use_sliding_window and max_window_layers exist
  bool qkv_bias;          // biases of q, k, v without a key for them
  bool attention_bias;    // the key attention_bias exists, for q, k, v and o
  bool mlp_bias;          // the key mlp_bias exists
  bool qk_norm;
};
constexpr Family families[] = {
    {.name = "llama",
     .architecture = "LlamaForCausalLM",
     .kv_heads = 0,
     .head_dim = 0,
     .max_positions = 2048,
     .bos = 1,
     .eos = 2,
     .window_on = false,
     .window_switch = false,
     .qkv_bias = false,
     .attention_bias = true,
     .mlp_bias = true,
     .qk_norm = false},
    {.name = "mistral",
     .architecture = "MistralForCausalLM",
     .kv_heads = 8,
     .head_dim = 0,
     .max_positions = 131072,
     .bos = 1,
     .eos = 2,
     .window_on = true,
     .window_switch = false,
     .qkv_bias = false,
     .attention_bias = false,
     .mlp_bias = false,
     .qk_norm = false},
    {.name = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .kv_heads = 32,
     .head_dim = 0,
     .max_positions = 32768,
     .bos = -1,
     .eos = -1,
     .window_on = false,
     .window_switch = true,
     .qkv_bias = true,
     .attention_bias = false,
     .mlp_bias = false,
     .qk_norm = false},
    {.name = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .kv_heads = 32,
     .head_dim = 128,
     .max_positions = 32768,
     .bos = -1,
     .eos = -1,
     .window_on = false,
     .window_switch = true,
     .qkv_bias = false,
     .attention_bias = true,
     .mlp_bias = false,
     .qk_norm = true},
};

std::string model_type_of(const ConfigKeys& keys) {
  if (const auto type = keys.text("model_type")) return *type;
  const json::value* architectures = keys.find("architectures");
  if (architectures != nullptr && architectures->is_array() && architectures->get_array().size() == 1 &&
      architectures->get_array()[0].is_string())
    for (const Family& family : families)
      if (architectures->get_array()[0].get_string() == family.architecture) return family.name;
  keys.refuse("model_type", "nothing", "llama, mistral, qwen2 or qwen3");
}

const Family& family_of(const ConfigKeys& keys) {
  const std::string type = model_type_of(keys);
  for (const Family& family : families)
    if (type == family.name) return family;
  keys.refuse("model_type", type.substr(0, 60), "llama, mistral, qwen2 or qwen3", other_models);
}

void refuse_what_we_lack(const ConfigKeys& keys) {
  const std::pair<const char*, const char*> lacking[] = {
      {"num_local_experts", "mixture of experts"}, {"num_experts", "mixture of experts"},
      {"n_routed_experts", "mixture of experts"},  {"quantization_config", "quantised weights"},
      {"kv_lora_rank", "latent attention (MLA)"},  {"text_config", "a multimodal model"}};
  for (const auto& [key, meaning] : lacking)
    if (keys.find(key) != nullptr) keys.refuse(key, meaning, "no such key (not supported)", other_models);
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const std::string activation = keys.text(key).value_or("silu");
    if (activation != "silu" && activation != "swish") keys.refuse(key, activation.substr(0, 60), "silu", other_models);
  }
}

DType dtype_of(const ConfigKeys& keys) {
  for (const char* key : {"dtype", "torch_dtype"})
    if (const auto name = keys.text(key)) {
      if (*name == "float32") return DType::f32;
      if (*name == "float16") return DType::f16;
      if (*name == "bfloat16") return DType::bf16;
      keys.refuse(key, name->substr(0, 60), "float32, float16 or bfloat16");
    }
  return DType::f32;
}

// The window of each layer, 0 = none. layer_types wins over every derived rule.
std::vector<std::int64_t> windows_of(const ConfigKeys& keys, const Family& family, std::int64_t layers) {
  const bool in_force = !family.window_switch || keys.boolean_or("use_sliding_window", false);
  const bool by_default = keys.missing("sliding_window") && (family.window_on || family.window_switch);
  std::int64_t window = 0;
  if (in_force && (by_default || keys.find("sliding_window") != nullptr))
    window = keys.whole_or("sliding_window", 4096, 1, max_length);
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);

  if (const json::value* types = keys.find("layer_types")) {
    if (!types->is_array() || types->get_array().size() != windows.size())
      keys.refuse("layer_types", types->is_array() ? fmt::format("{} entries", types->get_array().size()) : "no list",
                  fmt::format("one a layer, {}", layers));
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const json::value& type = types->get_array()[i];
      const std::string name = type.is_string() ? std::string(type.get_string()) : json_text(type);
      if (name == "sliding_attention" && window == 0)
        keys.refuse("layer_types", "sliding_attention without a sliding_window in force", "a window");
      if (name != "sliding_attention" && name != "full_attention")
        keys.refuse("layer_types", name.substr(0, 60), "full_attention or sliding_attention", other_models);
      windows[i] = name == "sliding_attention" ? window : 0;
    }
    return windows;
  }
  if (family.window_on) windows.assign(windows.size(), window);
  if (family.window_switch) {
    const std::int64_t first = keys.whole_or("max_window_layers", 28, 0, max_length);
    for (std::int64_t i = first; i < layers; ++i) windows[static_cast<std::size_t>(i)] = window;
  }
  return windows;
}

void read_layers(const ConfigKeys& keys, const Family& family, ModelConfig& config) {
  ModelCard& card = config.card;
  const RopeByLayerType rope = read_rope(keys, card.max_positions);
  const std::vector<std::int64_t> windows = windows_of(keys, family, card.layers);
  config.rope = {rope.full};
  const bool two_sets = rope.sliding != rope.full;
  if (two_sets) config.rope.push_back(rope.sliding);
  for (const std::int64_t window : windows)
    card.layer.push_back({.window = window, .rope_set = two_sets && window > 0 ? 1 : 0});
  card.rope = resolve_rope(config, card.max_positions);
}

std::vector<std::int32_t> token_ids(const ConfigKeys& keys, std::string_view key, std::int64_t fallback) {
  if (keys.missing(key))
    return fallback < 0 ? std::vector<std::int32_t>{} : std::vector{static_cast<std::int32_t>(fallback)};
  const json::value* value = keys.find(key);
  std::vector<std::int32_t> ids;
  if (value == nullptr) return ids;
  const auto add = [&](const json::value& id) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > max_length || ids.size() >= 1000)
      keys.refuse(key, json_text(id).substr(0, 60), "a token id or a list of them");
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  };
  if (value->is_array())
    for (const json::value& id : value->get_array()) add(id);
  else
    add(*value);
  return ids;
}

const json::object& object_of(const json::value& value, std::string_view what) {
  static const json::object nothing;
  if (!value.is_object()) ConfigKeys(nothing, what).refuse("the file", "no object", "keys and values");
  return value.get_object();
}

}  // namespace

ModelConfig parse_model_config(std::string_view text, std::string_view generation, std::string_view what) {
  const JsonLimits limits{.max_bytes = 16u << 20, .max_depth = 32};
  const json::value parsed = parse_json(text, what, limits);
  const ConfigKeys keys(object_of(parsed, what), what);
  const Family& family = family_of(keys);
  refuse_what_we_lack(keys);

  ModelConfig config;
  ModelCard& card = config.card;
  card.family = family.name;
  card.hidden = keys.whole("hidden_size", 1, 1 << 20);
  card.intermediate = keys.whole("intermediate_size", 1, 1 << 24);
  card.layers = keys.whole("num_hidden_layers", 1, 4096);
  card.query_heads = keys.whole("num_attention_heads", 1, 4096);
  card.vocab = keys.whole("vocab_size", 1, 1 << 24);
  card.max_positions = keys.whole_or("max_position_embeddings", family.max_positions, 1, max_length);

  const bool kv_missing = keys.missing("num_key_value_heads") && family.kv_heads > 0;
  card.kv_heads = keys.whole_or("num_key_value_heads", kv_missing ? family.kv_heads : card.query_heads, 1, 4096);
  if (card.query_heads % card.kv_heads != 0)
    keys.refuse("num_key_value_heads", fmt::format("{}", card.kv_heads),
                fmt::format("a divisor of num_attention_heads = {}", card.query_heads));

  if (keys.find("head_dim") == nullptr && family.head_dim == 0 && card.hidden % card.query_heads != 0)
    keys.refuse("hidden_size", fmt::format("{}", card.hidden),
                fmt::format("a multiple of num_attention_heads = {}, or head_dim", card.query_heads));
  const std::int64_t by_default = family.head_dim > 0 ? family.head_dim : card.hidden / card.query_heads;
  card.head_dim = keys.whole_or("head_dim", by_default, 2, 4096);
  if (card.head_dim < 2 || card.head_dim % 2 != 0)
    keys.refuse("head_dim", fmt::format("{}", card.head_dim), "an even number");

  card.dtype = dtype_of(keys);
  card.cache_dtype = card.dtype;
  card.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(card.head_dim)));
  const double eps = keys.number_or("rms_norm_eps", 1e-6);
  if (!(eps >= 0.0 && eps < 1.0)) keys.refuse("rms_norm_eps", fmt::format("{}", eps), "a small number from 0");
  config.rms_eps = static_cast<float>(eps);
  const bool biased = family.attention_bias && keys.boolean_or("attention_bias", false);
  config.qkv_bias = family.qkv_bias || biased;
  config.o_bias = biased;
  config.mlp_bias = family.mlp_bias && keys.boolean_or("mlp_bias", false);
  config.qk_norm = family.qk_norm;
  config.tied_embeddings = keys.boolean_or("tie_word_embeddings", false);
  read_layers(keys, family, config);

  const std::vector<std::int32_t> bos = token_ids(keys, "bos_token_id", family.bos);
  config.bos = bos.empty() ? -1 : bos[0];
  config.eos = token_ids(keys, "eos_token_id", family.eos);
  if (!generation.empty()) {
    const std::string name = fmt::format("{} (generation_config.json)", what);
    const json::value other = parse_json(generation, name, limits);
    const ConfigKeys wins(object_of(other, name), name);
    if (wins.find("eos_token_id") != nullptr) config.eos = token_ids(wins, "eos_token_id", -1);
  }
  return config;
}

}  // namespace kvgrind::traces
