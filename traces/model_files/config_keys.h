// One object of config.json, read key by key: a missing key gives the family's default, a wrong one an error that
// names it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace kvgrind::traces {

class ConfigKeys {
 public:
  // `what` names the file, `place` the object within it ("" = the top). Both must outlive this.
  ConfigKeys(const json::object& object, std::string_view what, std::string place = "")
      : object_(&object), what_(what), place_(std::move(place)) {}

  // The value, or null when the key is missing or null.
  const json::value* find(std::string_view key) const;
  bool empty() const { return object_->empty(); }
  bool missing(std::string_view key) const { return object_->if_contains(key) == nullptr; }

  std::int64_t whole(std::string_view key, std::int64_t min, std::int64_t max) const;  // must be there
  std::int64_t whole_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max) const;
  std::optional<double> number(std::string_view key) const;
  double number_or(std::string_view key, double fallback) const { return number(key).value_or(fallback); }
  bool boolean_or(std::string_view key, bool fallback) const;
  std::optional<std::string> text(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;  // missing or null = empty
  std::optional<ConfigKeys> object(std::string_view key) const;

  // Throws Error(damaged): "reading FILE: KEY: found …, expected …".
  [[noreturn]] void refuse(std::string_view key, std::string found, std::string expected, std::string next = "") const;

 private:
  const json::object* object_;
  std::string_view what_;
  std::string place_;
};

}  // namespace kvgrind::traces
