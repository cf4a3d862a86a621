#include "core/json.h"

#ifdef KVGRIND_JSON_HEADER_ONLY
#include <boost/json/src.hpp>
#endif
#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <charconv>
#include <cmath>
#include <unordered_set>
#include <vector>

#include "core/error.h"

namespace kvgrind {
namespace {

// Builds the value as Boost's own parser does, and on the way refuses what that one lets pass: duplicate keys (it keeps
// the last), numbers that overflow to infinity, NUL in strings. Knows where it is, for messages.
class Handler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  explicit Handler(const JsonLimits& limits) : unique_(limits.reject_duplicate_keys), left_(limits.max_values) {
    values_.reset();
  }

  json::value release() { return values_.release(); }
  const std::string& refused() const { return refused_; }

  // "/layers/3": the member or element that was being read.
  std::string place() const {
    std::string text;
    for (std::size_t i = 0; i < depth_; ++i)
      text += '/' + (levels_[i].object ? levels_[i].key : std::to_string(levels_[i].index));
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20) c = '?';
    return text.size() > 200 ? text.substr(0, 200) + "…" : text;
  }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }

  bool on_object_begin(json::error_code&) {
    enter(true);
    return true;
  }
  bool on_object_end(std::size_t n, json::error_code& ec) {
    values_.push_object(n);
    return leave(ec);
  }
  bool on_array_begin(json::error_code&) {
    enter(false);
    return true;
  }
  bool on_array_end(std::size_t n, json::error_code& ec) {
    values_.push_array(n);
    return leave(ec);
  }

  bool on_key_part(json::string_view s, std::size_t, json::error_code&) {
    values_.push_chars(s);
    partial_.append(s.data(), s.size());
    return true;
  }
  bool on_key(json::string_view s, std::size_t, json::error_code& ec) {
    values_.push_key(s);
    partial_.append(s.data(), s.size());
    Level& level = levels_[depth_ - 1];
    level.key.swap(partial_);
    partial_.clear();
    if (level.key.find('\0') != std::string::npos) return refuse("a NUL character in a key", ec);
    if (unique_ && !level.keys.insert(level.key).second) return refuse("this key twice in one object", ec);
    return true;
  }
  bool on_string_part(json::string_view s, std::size_t, json::error_code& ec) {
    values_.push_chars(s);
    return text_ok(s, ec);
  }
  bool on_string(json::string_view s, std::size_t, json::error_code& ec) {
    values_.push_string(s);
    return text_ok(s, ec) && done(ec);
  }

  bool on_number_part(json::string_view s, json::error_code&) {
    partial_.append(s.data(), s.size());
    return true;
  }
  bool on_int64(std::int64_t i, json::string_view, json::error_code& ec) {
    values_.push_int64(i);
    partial_.clear();
    return done(ec);
  }
  bool on_uint64(std::uint64_t u, json::string_view, json::error_code& ec) {
    values_.push_uint64(u);
    partial_.clear();
    return done(ec);
  }
  // Boost 1.81 rounds some decimals to a neighbour; from_chars is exact, so what we print reads back as the same bits.
  bool on_double(double approximate, json::string_view s, json::error_code& ec) {
    partial_.append(s.data(), s.size());
    double value = approximate;
    const auto [end, error] = std::from_chars(partial_.data(), partial_.data() + partial_.size(), value);
    if (error == std::errc::result_out_of_range && std::abs(approximate) < 1.0)
      value = approximate;  // underflow
    else if (error != std::errc{} || end != partial_.data() + partial_.size() || !std::isfinite(value))
      return refuse(fmt::format("the number {:.40}, which no double can hold", partial_), ec);
    partial_.clear();
    values_.push_double(value);
    return done(ec);
  }
  bool on_bool(bool b, json::error_code& ec) {
    values_.push_bool(b);
    return done(ec);
  }
  bool on_null(json::error_code& ec) {
    values_.push_null();
    return done(ec);
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  struct Level {
    bool object = false;
    std::int64_t index = 0;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  void enter(bool object) {
    if (depth_ == levels_.size()) levels_.emplace_back();
    Level& level = levels_[depth_++];
    level.object = object;
    level.index = 0;
    level.key.clear();
    // Clearing costs its bucket count: a set that was once large must not be cleared for each small object after it.
    if (level.keys.bucket_count() > 64)
      level.keys = std::unordered_set<std::string>();
    else
      level.keys.clear();
  }
  bool leave(json::error_code& ec) {
    --depth_;
    return done(ec);
  }
  bool done(json::error_code& ec) {
    if (left_-- == 0) return refuse("more values than a file of this kind may hold", ec);
    if (depth_ > 0) ++levels_[depth_ - 1].index;
    return true;
  }
  bool text_ok(json::string_view s, json::error_code& ec) {
    return s.find('\0') == json::string_view::npos || refuse("a NUL character in a string", ec);
  }
  bool refuse(std::string why, json::error_code& ec) {
    refused_ = std::move(why);
    ec = json::error::syntax;
    return false;
  }

  bool unique_;
  std::size_t left_;  // values that may still come
  json::value_stack values_;
  std::vector<Level> levels_;  // grows to the deepest nesting seen, reused
  std::size_t depth_ = 0;
  std::string partial_;  // the key or number being read
  std::string refused_;
};

std::string line_and_column(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? offset + 1 : offset - newline;
  return fmt::format("line {} column {}", line, column);
}

std::string reason(const json::error_code& ec, std::string_view text, std::size_t offset, const JsonLimits& limits) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return "nothing but blanks";
  if (ec == json::error::incomplete) return "the end of the text in the middle of a value";
  if (ec == json::error::extra_data) return "more text after the value";
  if (ec == json::error::too_deep) return fmt::format("nesting deeper than {}", limits.max_depth);
  if (ec == json::error::syntax && offset < text.size()) {
    const unsigned char c = static_cast<unsigned char>(text[offset]);
    return c > 0x20 && c < 0x7f ? fmt::format("'{}'", text[offset]) : fmt::format("byte 0x{:02x}", c);
  }
  return ec.message();
}

}  // namespace

json::value parse_json(std::string_view text, std::string_view what, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes)
    throw Error(Category::damaged, {.doing = "reading JSON",
                                    .on = std::string(what),
                                    .found = fmt::format("{} bytes", text.size()),
                                    .expected = fmt::format("at most {}", limits.max_bytes)});
  json::parse_options options;
  options.max_depth = limits.max_depth;
  json::basic_parser<Handler> parser(options, limits);
  json::error_code ec;
  const std::size_t read = parser.write_some(false, text.data(), text.size(), ec);
  if (!ec && read < text.size()) ec = json::error::extra_data;
  if (ec) {
    const Handler& handler = parser.handler();
    const std::size_t offset = std::min(read, text.size());
    const std::string place = handler.place();
    throw Error(
        Category::damaged,
        {.doing = "reading JSON",
         .on = fmt::format("{}, {}{}", what, line_and_column(text, offset), place.empty() ? "" : " (" + place + ")"),
         .found = handler.refused().empty() ? reason(ec, text, offset, limits) : handler.refused(),
         .expected = handler.refused().empty() ? "valid JSON in UTF-8" : ""});
  }
  return parser.handler().release();
}

}  // namespace kvgrind
