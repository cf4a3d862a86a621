#include "traces/model_files/step_keys.h"
#include "traces/model_files/text_steps.h"
#include "traces/model_files/unicode.h"

namespace kvgrind::traces {

std::string replaced(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t found; (found = text.find(pattern, at)) != std::string_view::npos; at = found + pattern.size()) {
    out.append(text.substr(at, found - at));
    out.append(content);
  }
  out.append(text.substr(at));
  return out;
}

Normalizer::Normalizer(const json::value& node, std::string_view what) {
  if (!node.is_null()) add(node, what);
}

void Normalizer::add(const json::value& node, std::string_view what) {
  const ConfigKeys keys = step_keys(node, what, "normalizer");
  const std::string type = keys.text("type").value_or("nothing");
  if (type == "Sequence")
    for_steps(keys, "normalizers", [&](const json::value& child) { add(child, what); });
  else if (type == "NFC")
    steps_.emplace_back(Nfc{});
  else if (type == "Prepend")
    steps_.emplace_back(Prepend{keys.text("prepend").value_or("")});
  else if (type == "Replace")
    steps_.emplace_back(Replace{string_pattern(keys), keys.text("content").value_or("")});
  else
    refuse_type(keys, type, "Sequence, NFC, Prepend or Replace");
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) {
    if (std::holds_alternative<Nfc>(step))
      out = unicode::to_nfc(out);
    else if (const auto* prepend = std::get_if<Prepend>(&step))
      out = out.empty() ? out : prepend->mark + out;
    else if (const auto* replace = std::get_if<Replace>(&step))
      out = replaced(out, replace->pattern, replace->content);
  }
  return out;
}

}  // namespace kvgrind::traces
