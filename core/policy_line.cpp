#include "core/policy_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>

#include "core/error.h"

namespace kvgrind {
namespace {

constexpr int max_depth = 16;
constexpr std::array<std::string_view, 6> slot_keys = {"score", "budget", "select", "act", "schedule", "read"};
constexpr std::array<std::string_view, 8> units = {"t", "B", "KiB", "MiB", "GiB", "KB", "MB", "GB"};

// The character classes of the grammar, independent of the locale.
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool starts_number(char c) { return is_digit(c) || c == '-' || c == '+' || c == '.'; }

std::string shown(char c) {
  return static_cast<unsigned char>(c) < 0x20 ? fmt::format("character 0x{:02x}", static_cast<unsigned char>(c))
                                              : fmt::format("'{}'", c);
}

std::vector<std::string> to_strings(std::span<const std::string_view> names) { return {names.begin(), names.end()}; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  PolicyLine line() {
    PolicyLine out;
    for (skip(); !done(); skip()) {
      const std::size_t begin = at_;
      const std::string key = name("a slot: " + fmt::format("{}", fmt::join(slot_keys, ", ")));
      if (std::find(slot_keys.begin(), slot_keys.end(), key) == slot_keys.end()) {
        const std::string near = nearest_name(key, to_strings(slot_keys));
        fail(begin, "slot \"" + key + "\"", fmt::format("one of {}", fmt::join(slot_keys, ", ")),
             near.empty() ? "" : fmt::format("did you mean \"{}\"?", near));
      }
      for (const auto& [other, call] : out.slots)
        if (other == key) fail(begin, "slot \"" + key + "\" a second time", "each slot once");
      expect('=', "after slot \"" + key + "\"");
      skip();
      Call call = this->call();
      if (!done() && !is_space(text_[at_])) fail(at_, shown(text_[at_]), "a space before the next slot");
      out.slots.emplace_back(key, std::move(call));
    }
    if (out.slots.empty()) fail(0, "nothing", "a slot such as score=position");
    return out;
  }

  Call only_call() {
    skip();
    Call out = call();
    skip();
    if (!done()) fail(at_, shown(text_[at_]), "the end of the text");
    return out;
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  void skip() {
    while (!done() && is_space(text_[at_])) ++at_;
  }

  [[noreturn]] void fail(std::size_t column, std::string found, std::string expected, std::string hint = "") const {
    throw Error(Category::usage, {.doing = "reading policy",
                                  .found = fmt::format("{} at column {}", found, column + 1),
                                  .expected = std::move(expected),
                                  .next = (hint.empty() ? "here" : hint) + caret_text(text_, column)});
  }

  void expect(char c, const std::string& where) {
    skip();
    if (done()) fail(at_, "the end", fmt::format("'{}' {}", c, where));
    if (text_[at_] != c) fail(at_, shown(text_[at_]), fmt::format("'{}' {}", c, where));
    ++at_;
  }

  std::string name(const std::string& expected) {
    if (done()) fail(at_, "the end", expected);
    if (!is_letter(text_[at_])) fail(at_, shown(text_[at_]), expected);
    const std::size_t begin = at_;
    while (!done() && (is_letter(text_[at_]) || is_digit(text_[at_]) || text_[at_] == '-')) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  Call call() {
    if (++depth_ > max_depth) fail(at_, "deeper nesting", fmt::format("at most {} calls inside each other", max_depth));
    Call out;
    out.column = at_;
    out.name = name("a name");
    if (!done() && text_[at_] == '(') {
      ++at_;
      skip();
      if (!done() && text_[at_] == ')') fail(at_, "')'", "an argument, or the name without parentheses");
      while (true) {
        skip();
        Argument argument;
        argument.column = at_;
        // A list may stand alone: classes([…]) is classes(of=[…]).
        const bool bare = !done() && text_[at_] == '[';
        argument.key = bare ? "of" : name("an argument such as window=32");
        for (const Argument& other : out.arguments)
          if (other.key == argument.key) fail(argument.column, "\"" + argument.key + "\" a second time", "it once");
        if (!bare) expect('=', "after \"" + argument.key + "\"");
        skip();
        argument.value = value();
        out.arguments.push_back(std::move(argument));
        skip();
        if (done()) fail(at_, "the end", "',' or ')'");
        if (text_[at_] == ')') break;
        if (text_[at_] != ',') fail(at_, shown(text_[at_]), "',' or ')'");
        ++at_;
      }
      ++at_;
    }
    --depth_;
    return out;
  }

  Value value() {
    Value out;
    out.column = at_;
    if (done()) fail(at_, "the end", "a value");
    const char c = text_[at_];
    if (starts_number(c)) {
      out.data = number();
      if (!done() && is_letter(text_[at_])) {
        const std::size_t begin = at_;
        while (!done() && (is_letter(text_[at_]) || is_digit(text_[at_]))) ++at_;
        const std::string unit(text_.substr(begin, at_ - begin));
        if (std::find(units.begin(), units.end(), unit) == units.end())
          fail(begin, "unit \"" + unit + "\"", fmt::format("one of {}", fmt::join(units, ", ")));
        out.data = Value::Unit{std::get<Value::Number>(out.data).value, unit};
      }
    } else if (c == '"') {
      out.data = string();
    } else if (c == '[') {
      out.data = list();
    } else if (is_letter(c)) {
      Call inner = call();
      if (inner.arguments.empty())
        out.data = Value::Word{std::move(inner.name)};
      else
        out.data = std::make_shared<const Call>(std::move(inner));
    } else {
      fail(at_, shown(c), "a number, word, \"string\", call or [list]");
    }
    return out;
  }

  Value::Number number() {
    const std::size_t begin = at_;
    const std::size_t digits = text_[at_] == '+' ? at_ + 1 : at_;
    Value::Number out{};
    const char* first = text_.data() + digits;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), out.value);
    if (error == std::errc::result_out_of_range) fail(begin, "a number out of range", "a finite double");
    if (error != std::errc() || (digits != begin && *first == '-') || !std::isfinite(out.value))
      fail(begin, "no number", "a number such as 0.2");
    at_ = static_cast<std::size_t>(end - text_.data());
    return out;
  }

  Value::String string() {
    const std::size_t begin = at_++;
    Value::String out;
    while (!done() && text_[at_] != '"') {
      if (text_[at_] == '\\') {
        ++at_;
        if (done() || (text_[at_] != '"' && text_[at_] != '\\')) fail(at_, "an escape", "\\\" or \\\\");
      }
      out.text += text_[at_++];
    }
    if (done()) fail(begin, "an open string", "a closing '\"'");
    ++at_;
    return out;
  }

  Value::List list() {
    if (++depth_ > max_depth) fail(at_, "deeper nesting", fmt::format("at most {} levels", max_depth));
    ++at_;
    Value::List out;
    while (true) {
      skip();
      out.push_back(value());
      skip();
      if (done()) fail(at_, "the end", "',' or ']'");
      if (text_[at_] == ']') break;
      if (text_[at_] != ',') fail(at_, shown(text_[at_]), "',' or ']'");
      ++at_;
    }
    ++at_;
    --depth_;
    return out;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string caret_text(std::string_view text, std::size_t column) {
  std::string shown_text, pad;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    shown_text += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    // Continuation bytes of UTF-8 take no column of their own.
    if (i < column && (static_cast<unsigned char>(c) & 0xC0u) != 0x80u) pad += ' ';
  }
  return "\n  " + shown_text + "\n  " + pad + "^";
}

bool Value::operator==(const Value& other) const {
  if (data.index() != other.data.index()) return false;
  if (const auto* call = std::get_if<std::shared_ptr<const Call>>(&data))
    return call_text(**call) == call_text(*std::get<std::shared_ptr<const Call>>(other.data));
  return data == other.data;
}

Call parse_call(std::string_view text) { return Parser(text).only_call(); }

PolicyLine parse_policy_line(std::string_view text) { return Parser(text).line(); }

bool looks_like_line(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size() && is_space(text[i])) ++i;
  const std::size_t begin = i;
  while (i < text.size() && (is_letter(text[i]) || is_digit(text[i]) || text[i] == '-')) ++i;
  if (i == begin) return false;
  while (i < text.size() && is_space(text[i])) ++i;
  return i < text.size() && text[i] == '=';
}

std::string number_text(double value) {
  // Whole numbers read better in full: 100000, not 1e+05.
  if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(static_cast<std::int64_t>(value));
  std::array<char, 32> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return error == std::errc() ? std::string(buffer.data(), end) : std::string("nan");
}

std::string value_text(const Value& value) {
  struct Print {
    std::string operator()(const Value::Number& number) const { return number_text(number.value); }
    std::string operator()(const Value::Unit& unit) const { return number_text(unit.value) + unit.unit; }
    std::string operator()(const Value::Word& word) const { return word.text; }
    std::string operator()(const Value::String& string) const {
      std::string out = "\"";
      for (const char c : string.text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
      }
      return out + "\"";
    }
    std::string operator()(const Value::List& list) const {
      std::string out = "[";
      for (std::size_t i = 0; i < list.size(); ++i) out += (i ? "," : "") + value_text(list[i]);
      return out + "]";
    }
    std::string operator()(const std::shared_ptr<const Call>& call) const { return call_text(*call); }
  };
  return std::visit(Print{}, value.data);
}

std::string call_text(const Call& call) {
  std::string out = call.name;
  for (std::size_t i = 0; i < call.arguments.size(); ++i)
    out += (i ? "," : "(") + call.arguments[i].key + "=" + value_text(call.arguments[i].value);
  return call.arguments.empty() ? out : out + ")";
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& names) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : names) {
    // Edit distance where swapping two neighbours is one edit.
    std::vector<std::size_t> before, last(candidate.size() + 1), row(candidate.size() + 1);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= name.size(); ++i) {
      before = std::exchange(last, row);
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (name[i - 1] != candidate[j - 1])});
        if (i > 1 && j > 1 && name[i - 1] == candidate[j - 2] && name[i - 2] == candidate[j - 1])
          row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace kvgrind
