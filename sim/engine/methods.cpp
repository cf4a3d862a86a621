// Presets: published methods as data. A call with overrides expands to a line, which is then bound.
#include "sim/engine/methods.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/embedded_text.h"
#include "core/error.h"
#include "sim/engine/bound_policy.h"

namespace kvgrind::sim {
namespace {

[[noreturn]] void damaged(std::string_view where, const std::string& found, const std::string& expected) {
  throw Error(Category::damaged,
              {.doing = "reading method", .on = std::string(where), .found = found, .expected = expected});
}

std::string text_of(const json::object& object, std::string_view key, std::string_view where) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_string()) damaged(where, fmt::format("no text \"{}\"", key), fmt::format("\"{}\"", key));
  return std::string(value->as_string());
}

const json::array& array_of(const json::object& object, std::string_view key, std::string_view where) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_array()) damaged(where, fmt::format("no list \"{}\"", key), fmt::format("\"{}\": […]", key));
  return value->as_array();
}

const json::object& object_of(const json::value& value, std::string_view what, std::string_view where) {
  if (!value.is_object()) damaged(where, fmt::format("{} that is no object", what), "{…}");
  return value.as_object();
}

double number_of(const json::object& object, std::string_view key, double fallback) {
  const json::value* value = object.if_contains(key);
  return value && value->is_number() ? value->to_number<double>() : fallback;
}

ParamType type_of(const std::string& name, std::string_view where) {
  if (name == "integer") return ParamType::integer;
  if (name == "number") return ParamType::number;
  if (name == "boolean") return ParamType::boolean;
  if (name == "word") return ParamType::word;
  if (name == "text") return ParamType::text;  // the name of a calibration
  if (name == "list") return ParamType::list;  // of numbers
  if (name == "score") return ParamType::call;
  damaged(where, fmt::format("parameter type \"{}\"", name), "integer, number, boolean, word, text, list or score");
}

}  // namespace

Method read_method(const MethodCard& card) {
  const std::string where = "method " + card.name;
  Method out;
  out.name = card.name;
  for (const json::value& value : array_of(card.data, "parameters", where)) {
    const json::object& object = object_of(value, "a parameter", where);
    Method::Parameter parameter;
    parameter.name = text_of(object, "name", where);
    parameter.type = type_of(text_of(object, "type", where), where);
    parameter.default_text = text_of(object, "default", where);
    parameter.help = text_of(object, "help", where);
    parameter.min = number_of(object, "min", parameter.min);
    parameter.max = number_of(object, "max", parameter.max);
    if (const json::value* words = object.if_contains("words"); words && words->is_array())
      for (const json::value& word : words->as_array()) parameter.words.emplace_back(word.as_string());
    out.parameters.push_back(std::move(parameter));
  }
  for (const json::value& value : array_of(card.data, "like", where)) {
    const json::object& object = object_of(value, "a variant", where);
    Method::Variant variant{.name = text_of(object, "name", where), .help = text_of(object, "help", where)};
    if (const json::value* defaults = object.if_contains("defaults"))
      for (const auto& [key, text] : object_of(*defaults, "\"defaults\"", where))
        variant.defaults[std::string(key)] = std::string(text.as_string());
    out.like.push_back(std::move(variant));
  }
  if (out.like.empty()) damaged(where, "no variant", "at least one in \"like\"");
  for (const json::value& value : array_of(card.data, "lines", where)) {
    const json::object& object = object_of(value, "a line", where);
    Method::Line line{.when = {}, .text = text_of(object, "line", where)};
    if (const json::value* when = object.if_contains("when"))
      for (const auto& [key, text] : object_of(*when, "\"when\"", where))
        line.when[std::string(key)] = std::string(text.as_string());
    out.lines.push_back(std::move(line));
  }
  const std::string tag = text_of(card.data, "tag", where);
  const bool suffixed = out.name.size() > 2 && out.name.substr(out.name.size() - 2) == "-m";
  if ((tag == "M") != suffixed)
    damaged(where, fmt::format("tag {} with name {}", tag, out.name), "the suffix -m exactly for tag M");
  const std::string count = text_of(card.data, "count", where);
  const auto known = {CountClass::exact, CountClass::at_most, CountClass::threshold, CountClass::fixed};
  const auto* found =
      std::find_if(known.begin(), known.end(), [&](CountClass c) { return count_class_name(c) == count; });
  if (found == known.end()) damaged(where, "count " + count, "exact, at_most, threshold or fixed");
  out.count = *found;
  if (card.data.if_contains("open_loop")) out.open_loop = text_of(card.data, "open_loop", where);
  if (card.data.if_contains("identity")) out.identity = text_of(card.data, "identity", where);
  for (const char* key : {"help", "fidelity", "full"}) (void)text_of(card.data, key, where);
  if (card.data.if_contains("protocol")) {
    const std::string protocol = text_of(card.data, "protocol", where);
    const auto& words = protocol_words();
    if (std::find(words.begin(), words.end(), protocol.substr(0, protocol.find(':'))) == words.end())
      damaged(where, "protocol " + protocol, fmt::format("one of {}, then a colon and why", fmt::join(words, ", ")));
  }
  (void)array_of(card.data, "deviations", where);
  if (!card.data.if_contains("source")) damaged(where, "no \"source\"", "\"source\": {…}");
  return out;
}

const std::vector<std::string>& protocol_words() {
  static const std::vector<std::string> words = {"question-blind",   "question-aware", "multi-turn",
                                                 "while generating", "no questions",   "not stated"};
  return words;
}

std::string expand(const Method& method, const Call& call, std::string_view whole) {
  std::vector<std::string> names{"like"}, variants;
  for (const auto& parameter : method.parameters) names.push_back(parameter.name);
  for (const auto& variant : method.like) variants.push_back(variant.name);

  const Method::Variant* like = &method.like[0];
  for (const Argument& argument : call.arguments) {
    if (std::find(names.begin(), names.end(), argument.key) == names.end())
      refuse(whole, argument.column, fmt::format("parameter \"{}\"", argument.key),
             fmt::format("one of {} of {}", fmt::join(names, ", "), method.name), nearest_name(argument.key, names));
    if (argument.key != "like") continue;
    const std::string chosen = value_text(argument.value);
    const auto found = std::find(variants.begin(), variants.end(), chosen);
    if (found == variants.end())
      refuse(whole, argument.value.column, "like=" + chosen,
             fmt::format("one of {} of {}", fmt::join(variants, ", "), method.name), nearest_name(chosen, variants));
    like = &method.like[static_cast<std::size_t>(found - variants.begin())];
  }

  std::map<std::string, std::string> values{{"like", like->name}};
  for (const Method::Parameter& parameter : method.parameters) {
    const auto own = like->defaults.find(parameter.name);
    std::string text = own == like->defaults.end() ? parameter.default_text : own->second;
    for (const Argument& argument : call.arguments) {
      if (argument.key != parameter.name) continue;
      ParamRow row{parameter.name.c_str(), parameter.type, nullptr, "", parameter.min, parameter.max, {}};
      for (const std::string& word : parameter.words) row.words.push_back(word.c_str());
      if (parameter.type == ParamType::call) row.words = {"score"};
      text = value_text(check_value(row, argument.value, whole));
    }
    values[parameter.name] = text;
  }
  for (const Method::Line& line : method.lines) {
    if (!std::all_of(line.when.begin(), line.when.end(), [&](const auto& condition) {
          const auto it = values.find(condition.first);
          return it != values.end() && it->second == condition.second;
        }))
      continue;
    std::string out;
    for (std::size_t i = 0; i < line.text.size(); ++i) {
      if (line.text[i] != '{') {
        out += line.text[i];
        continue;
      }
      const std::size_t close = line.text.find('}', i);
      const std::string key = line.text.substr(i + 1, close == std::string::npos ? close : close - i - 1);
      const auto it = values.find(key);
      if (close == std::string::npos || it == values.end())
        damaged("method " + method.name, "{" + key + "} in a line", "a parameter of the method");
      out += it->second;
      i = close;
    }
    return out;
  }
  damaged("method " + method.name, "no line for these parameters", "a line without \"when\" at the end");
}

MethodCard parse_method_card(std::string_view text, std::string_view where) {
  const json::value value = parse_json(text, where);
  MethodCard card;
  card.data = object_of(value, "a file", where);
  card.name = text_of(card.data, "name", where);
  (void)read_method(card);
  return card;
}

std::vector<MethodCard> method_cards() {
  static const std::vector<MethodCard> cards = [] {
    std::vector<MethodCard> out;
    for (const EmbeddedText& file : embedded_methods())
      out.push_back(parse_method_card(file.text, fmt::format("method {}", file.name)));
    std::sort(out.begin(), out.end(), [](const MethodCard& a, const MethodCard& b) { return a.name < b.name; });
    return out;
  }();
  return cards;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> out;
  for (const EmbeddedText& file : embedded_methods()) out.emplace_back(file.name);
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace kvgrind::sim
