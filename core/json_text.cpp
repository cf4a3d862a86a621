// Boost's own writer prints doubles as 3E0 and drops what NaN was; this one is compact, exact and plain JSON.
#include <fmt/format.h>

#include <cmath>

#include "core/json.h"

namespace kvgrind {
namespace {

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        else
          out += c;
    }
  }
  out += '"';
}

void append_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  const std::string digits = fmt::format("{}", value);
  out += digits;
  if (digits.find_first_of(".e") == std::string::npos) out += ".0";  // stays a double when read back
}

void append(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      out += "null";
      break;
    case json::kind::bool_:
      out += value.get_bool() ? "true" : "false";
      break;
    case json::kind::int64:
      out += std::to_string(value.get_int64());
      break;
    case json::kind::uint64:
      out += std::to_string(value.get_uint64());
      break;
    case json::kind::double_:
      append_double(out, value.get_double());
      break;
    case json::kind::string:
      append_string(out, {value.get_string().data(), value.get_string().size()});
      break;
    case json::kind::array: {
      out += '[';
      const char* comma = "";
      for (const json::value& item : value.get_array()) {
        out += comma;
        append(out, item);
        comma = ",";
      }
      out += ']';
      break;
    }
    case json::kind::object: {
      out += '{';
      const char* comma = "";
      for (const auto& member : value.get_object()) {
        out += comma;
        append_string(out, {member.key().data(), member.key().size()});
        out += ':';
        append(out, member.value());
        comma = ",";
      }
      out += '}';
      break;
    }
  }
}

}  // namespace

std::string json_text(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace kvgrind
