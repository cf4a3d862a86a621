#include "traces/model_files/rope_keys.h"

#include <fmt/format.h>

#include <limits>

namespace kvgrind::traces {
namespace {

constexpr std::int64_t max_length = std::numeric_limits<std::int32_t>::max();

bool scales(const std::string& type) { return type == "llama3" || type == "yarn" || type == "longrope"; }

// `keys` is rope_scaling or (part of) rope_parameters; `top` the whole config, whose keys fill in what `keys` lacks.
RopeParameters read_one(const ConfigKeys& keys, const ConfigKeys& top, std::int64_t max_positions, bool nested) {
  RopeParameters rope;
  rope.type = keys.text("rope_type").value_or(keys.text("type").value_or("default"));
  rope.theta = keys.number("rope_theta").value_or(top.number_or("rope_theta", 10000.0));
  const double partial = keys.number("partial_rotary_factor").value_or(top.number_or("partial_rotary_factor", 1.0));
  if (partial != 1.0)
    keys.refuse("partial_rotary_factor", fmt::format("{}", partial), "1 (these families rotate whole heads)");
  if (rope.type == "default") return rope;

  bool known = scales(rope.type);
  for (const char* type : {"linear", "dynamic"}) known = known || rope.type == type;
  if (!known) keys.refuse("rope_type", rope.type.substr(0, 60), "default, linear, dynamic, llama3, yarn or longrope");

  if (scales(rope.type)) {
    // The top-level key wins over the one within, except where parameters are nested by layer type.
    const ConfigKeys& first = !nested && top.find("original_max_position_embeddings") ? top : keys;
    rope.original_max_positions = first.whole_or("original_max_position_embeddings", max_positions, 2, max_length);
  }
  const std::optional<double> factor = keys.number("factor");
  const double ratio = rope.original_max_positions > 0
                           ? static_cast<double>(max_positions) / static_cast<double>(rope.original_max_positions)
                           : 1.0;
  if (!factor && rope.type != "yarn" && rope.type != "longrope") keys.refuse("factor", "nothing", "a number");
  rope.factor = factor.value_or(ratio);
  if (!(rope.factor > 0.0)) keys.refuse("factor", fmt::format("{}", rope.factor), "a positive number");

  rope.attention_factor = keys.number("attention_factor");
  if (rope.type == "llama3") {
    for (const char* key : {"low_freq_factor", "high_freq_factor"})
      if (keys.find(key) == nullptr) keys.refuse(key, "nothing", "a number");
    rope.low_freq_factor = *keys.number("low_freq_factor");
    rope.high_freq_factor = *keys.number("high_freq_factor");
  } else if (rope.type == "yarn") {
    const auto given = [&](const char* key, double fallback) {
      const double value = keys.number_or(key, fallback);
      return value == 0.0 ? fallback : value;  // as the reference: zero means not given
    };
    rope.beta_fast = given("beta_fast", 32.0);
    rope.beta_slow = given("beta_slow", 1.0);
    rope.mscale = keys.number("mscale");
    rope.mscale_all_dim = keys.number("mscale_all_dim");
    rope.truncate = keys.boolean_or("truncate", true);
  } else if (rope.type == "longrope") {
    rope.short_factor = keys.numbers("short_factor");
    rope.long_factor = keys.numbers("long_factor");
    // A stated factor of 1 means no gain; resolve_rope would read it as "not given".
    if (factor == 1.0 && !rope.attention_factor) rope.attention_factor = 1.0;
  }
  return rope;
}

}  // namespace

RopeByLayerType read_rope(const ConfigKeys& config, std::int64_t max_positions) {
  static const json::object nothing;
  std::optional<ConfigKeys> keys = config.object("rope_scaling");
  if (!keys || keys->empty()) keys = config.object("rope_parameters");
  if (!keys) keys = ConfigKeys(nothing, "config.json");
  const std::optional<ConfigKeys> full = keys->object("full_attention"), sliding = keys->object("sliding_attention");
  RopeByLayerType rope;
  if (!full && !sliding) {
    rope.full = rope.sliding = read_one(*keys, config, max_positions, false);
    return rope;
  }
  rope.full = read_one(full ? *full : *sliding, config, max_positions, true);
  rope.sliding = read_one(sliding ? *sliding : *full, config, max_positions, true);
  return rope;
}

}  // namespace kvgrind::traces
