#include "replay/record/fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/json_words.h"
#include "core/policy_line.h"

namespace kvgrind::replay {
namespace {

Error damaged(std::string_view what, const std::string& where, std::string found, std::string expected) {
  return Error(Category::damaged, {.doing = "reading",
                                   .on = fmt::format("{}: {}", what, where),
                                   .found = std::move(found),
                                   .expected = std::move(expected)});
}

std::optional<std::int64_t> whole(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  return std::nullopt;
}

}  // namespace

Fields::Fields(const json::value& value, std::string where, std::string_view what,
               std::initializer_list<const char*> known)
    : where_(std::move(where)), what_(what) {
  object_ = value.if_object();
  if (!object_) throw damaged(what_, where_, json_words(value), "an object");
  const std::vector<std::string> names(known.begin(), known.end());
  for (const auto& entry : *object_) {
    const std::string key(entry.key());
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    const std::string near = nearest_name(key, names);
    throw damaged(what_, where_, "the unknown key \"" + key + "\"",
                  near.empty() ? "one of " + fmt::format("{}", fmt::join(names, ", ")) : "perhaps \"" + near + "\"");
  }
}

const json::value* Fields::find(std::string_view key) const { return object_->if_contains(key); }

const json::value& Fields::require(std::string_view key) const {
  const json::value* value = find(key);
  if (!value) throw damaged(what_, where_, "no key \"" + std::string(key) + "\"", "it to be there");
  return *value;
}

std::string Fields::text(std::string_view key) const {
  const json::value& value = require(key);
  if (!value.is_string()) throw fault(key, json_words(value), "a text");
  return std::string(value.get_string());
}
std::string Fields::text(std::string_view key, std::string_view fallback) const {
  return find(key) ? text(key) : std::string(fallback);
}

std::int64_t Fields::integer(std::string_view key) const {
  const json::value& value = require(key);
  const std::optional<std::int64_t> number = whole(value);
  if (!number) throw fault(key, json_words(value), "a whole number");
  return *number;
}
std::int64_t Fields::integer(std::string_view key, std::int64_t fallback) const {
  return find(key) ? integer(key) : fallback;
}

std::vector<std::int32_t> Fields::ids(std::string_view key) const {
  std::vector<std::int32_t> out;
  for (const auto& [value, place] : list_entries(require(key), where_ + "." + std::string(key), what_)) {
    const std::optional<std::int64_t> id = whole(value);
    if (!id || *id < 0 || *id > std::numeric_limits<std::int32_t>::max())
      throw damaged(what_, place, json_words(value), "a token id");
    out.push_back(static_cast<std::int32_t>(*id));
  }
  return out;
}

Error Fields::fault(std::string_view key, std::string found, std::string expected) const {
  return damaged(what_, where_ + "." + std::string(key), std::move(found), std::move(expected));
}

std::vector<std::pair<const json::value&, std::string>> list_entries(const json::value& value, const std::string& where,
                                                                     std::string_view what) {
  const json::array* list = value.if_array();
  if (!list) throw damaged(what, where, json_words(value), "a list");
  std::vector<std::pair<const json::value&, std::string>> out;
  out.reserve(list->size());
  for (std::size_t i = 0; i < list->size(); ++i) out.emplace_back((*list)[i], fmt::format("{}[{}]", where, i));
  return out;
}

}  // namespace kvgrind::replay
