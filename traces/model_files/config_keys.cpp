#include "traces/model_files/config_keys.h"

#include <fmt/format.h>

#include "core/error.h"

namespace kvgrind::traces {
namespace {
std::string shown(const json::value& value) { return json_text(value).substr(0, 60); }
}  // namespace

void ConfigKeys::refuse(std::string_view key, std::string found, std::string expected, std::string next) const {
  throw Error(Category::damaged, {.doing = "reading",
                                  .on = fmt::format("{}: {}{}", what_, place_, key),
                                  .found = std::move(found),
                                  .expected = std::move(expected),
                                  .next = std::move(next)});
}

const json::value* ConfigKeys::find(std::string_view key) const {
  const json::value* value = object_->if_contains(key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

std::int64_t ConfigKeys::whole(std::string_view key, std::int64_t min, std::int64_t max) const {
  const json::value* value = find(key);
  if (value == nullptr) refuse(key, "nothing", "a whole number");
  if (!value->is_int64() || value->get_int64() < min || value->get_int64() > max)
    refuse(key, shown(*value), fmt::format("a whole number from {} to {}", min, max));
  return value->get_int64();
}

std::int64_t ConfigKeys::whole_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                  std::int64_t max) const {
  return find(key) == nullptr ? fallback : whole(key, min, max);
}

std::optional<double> ConfigKeys::number(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_double()) return value->get_double();
  if (value->is_int64()) return static_cast<double>(value->get_int64());
  refuse(key, shown(*value), "a number");
}

bool ConfigKeys::boolean_or(std::string_view key, bool fallback) const {
  const json::value* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) refuse(key, shown(*value), "true or false");
  return value->get_bool();
}

std::optional<std::string> ConfigKeys::text(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(key, shown(*value), "text");
  return std::string(value->get_string());
}

std::vector<double> ConfigKeys::numbers(std::string_view key) const {
  std::vector<double> result;
  const json::value* value = find(key);
  if (value == nullptr) return result;
  if (!value->is_array()) refuse(key, shown(*value), "a list of numbers");
  for (const json::value& item : value->get_array()) {
    if (!item.is_double() && !item.is_int64()) refuse(key, shown(item), "a list of numbers");
    result.push_back(item.is_double() ? item.get_double() : static_cast<double>(item.get_int64()));
  }
  return result;
}

std::optional<ConfigKeys> ConfigKeys::object(std::string_view key) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) refuse(key, shown(*value), "an object");
  return ConfigKeys(value->get_object(), what_, place_ + std::string(key) + "/");
}

}  // namespace kvgrind::traces
