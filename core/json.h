// Boost.JSON behind our limits: depth ≤ 64, no duplicate keys, numbers finite, no NUL. Errors name file and place.
#pragma once
#include <boost/json.hpp>
#include <string>
#include <string_view>

namespace kvgrind {

namespace json = boost::json;

struct JsonLimits {
  std::size_t max_bytes = 256u << 20;
  std::size_t max_depth = 64;
  std::size_t max_values = 16u << 20;  // numbers, texts, lists, … in all: a list of nothing costs 24 bytes a value
  bool reject_duplicate_keys = true;
};

// `what` names the input in errors ("config.json of models/tiny-3m"). Throws Error(damaged).
json::value parse_json(std::string_view text, std::string_view what, const JsonLimits& limits = {});

// Compact text with keys in insertion order; doubles in shortest round-trip form; NaN and infinities as null.
std::string json_text(const json::value& value);

}  // namespace kvgrind
