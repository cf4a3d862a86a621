// Checked access to a JSON object from a file: every wrong key, type or number is an Error(damaged) naming file and
// place ("prompts.json: sequences[2].ids[7]").
#pragma once
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace kvgrind::replay {

class Fields {
 public:
  // `value` must be an object with no keys but `known`. It must outlive this.
  Fields(const json::value& value, std::string where, std::string_view what, std::initializer_list<const char*> known);

  const json::value* find(std::string_view key) const;  // null when absent
  std::string text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  std::int64_t integer(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback) const;
  std::vector<std::int32_t> ids(std::string_view key) const;  // list of whole numbers in [0, 2^31)

  Error fault(std::string_view key, std::string found, std::string expected) const;

 private:
  const json::value& require(std::string_view key) const;
  const json::object* object_ = nullptr;
  std::string where_, what_;
};

// The entries of a list, each with its place; Error(damaged) when it is not a list.
std::vector<std::pair<const json::value&, std::string>> list_entries(const json::value& value, const std::string& where,
                                                                     std::string_view what);

}  // namespace kvgrind::replay
