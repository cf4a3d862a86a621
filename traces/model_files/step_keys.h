// Reading the steps of a tokenizer.json stage: nodes with a "type", perhaps nested in a Sequence.
#pragma once
#include <string>
#include <string_view>

#include "traces/model_files/config_keys.h"
#include "traces/model_files/token_limits.h"

namespace kvgrind::traces {

// The node as keys, or an error that names the stage. `stage` is for messages: "normalizer".
inline ConfigKeys step_keys(const json::value& node, std::string_view what, const char* stage) {
  static const json::object nothing;
  if (!node.is_object()) ConfigKeys(nothing, what).refuse(stage, json_text(node).substr(0, 60), "an object");
  return ConfigKeys(node.get_object(), what, std::string(stage) + "/");
}

// Calls add(child) for each node of a Sequence's list.
template <class Add>
void for_steps(const ConfigKeys& keys, std::string_view list, Add add) {
  const json::value* nodes = keys.find(list);
  if (nodes == nullptr || !nodes->is_array()) keys.refuse(list, "no list", "a list");
  for (const json::value& node : nodes->get_array()) add(node);
}

// pattern: {"String": "…"}; other kinds of pattern are refused.
inline std::string string_pattern(const ConfigKeys& keys) {
  const auto pattern = keys.object("pattern");
  const auto text = pattern ? pattern->text("String") : std::nullopt;
  if (!text || text->empty()) keys.refuse("pattern", "no String pattern", "{\"String\": …}", other_tokenizers);
  return *text;
}

[[noreturn]] inline void refuse_type(const ConfigKeys& keys, const std::string& type, const char* known) {
  keys.refuse("type", type.substr(0, 60), known, other_tokenizers);
}

}  // namespace kvgrind::traces
