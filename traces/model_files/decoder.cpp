#include <fmt/format.h>

#include "traces/model_files/byte_level.h"
#include "traces/model_files/step_keys.h"
#include "traces/model_files/text_steps.h"
#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

// "<0xE4>" → 0xE4, anything else → −1. Either case of the digits is a byte, as for the reference.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    byte = byte * 16 + digit;
  }
  return byte;
}

std::string joined(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

// A run of byte tokens becomes its text, or one U+FFFD a byte when it is no valid UTF-8.
std::vector<std::string> join_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (unicode::lossy_utf8(run) == run) {
      out.push_back(run);
    } else {
      for (std::size_t i = 0; i < run.size(); ++i) out.emplace_back("\xef\xbf\xbd");
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    if (const int byte = byte_of(token); byte >= 0) {
      run += static_cast<char>(static_cast<unsigned char>(byte));
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

std::string stripped(std::string_view token, std::string_view content, std::int64_t start, std::int64_t stop) {
  for (; start > 0 && token.starts_with(content); --start) token.remove_prefix(content.size());
  for (; stop > 0 && token.ends_with(content); --stop) token.remove_suffix(content.size());
  return std::string(token);
}

}  // namespace

Decoder::Decoder(const json::value& node, std::string_view what) {
  if (!node.is_null()) add(node, what);
}

void Decoder::add(const json::value& node, std::string_view what) {
  const ConfigKeys keys = step_keys(node, what, "decoder");
  const std::string type = keys.text("type").value_or("nothing");
  if (type == "Sequence") {
    for_steps(keys, "decoders", [&](const json::value& child) { add(child, what); });
  } else if (type == "ByteLevel") {
    steps_.emplace_back(ByteLevel{});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    steps_.emplace_back(Fuse{});
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{string_pattern(keys), keys.text("content").value_or("")});
  } else if (type == "Strip") {
    const std::string content = keys.text("content").value_or("");
    if (content.empty()) keys.refuse("content", "nothing", "a character");
    steps_.emplace_back(Strip{content, keys.whole_or("start", 0, 0, 1000), keys.whole_or("stop", 0, 0, 1000)});
  } else if (type == "Metaspace") {
    const std::string mark = keys.text("replacement").value_or("▁");
    if (mark.empty()) keys.refuse("replacement", "nothing", "a character");
    const bool always = keys.boolean_or("add_prefix_space", true);
    steps_.emplace_back(Metaspace{mark, keys.text("prepend_scheme").value_or(always ? "always" : "never") != "never"});
  } else {
    refuse_type(keys, type, "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip or Metaspace");
  }
}

bool Decoder::byte_level() const {
  for (const auto& step : steps_)
    if (std::holds_alternative<ByteLevel>(step)) return true;
  return false;
}

std::string Decoder::apply(std::vector<std::string> tokens) const {
  if (steps_.empty()) {
    std::string text;
    for (const std::string& token : tokens) text += (text.empty() ? "" : " ") + token;
    return unicode::lossy_utf8(text);
  }
  for (const auto& step : steps_)
    std::visit(Overloaded{[&](const ByteLevel&) {
                            std::string bytes;
                            for (const std::string& token : tokens) bytes += from_byte_alphabet(token).value_or(token);
                            tokens = {unicode::lossy_utf8(bytes)};
                          },
                          [&](const ByteFallback&) { tokens = join_bytes(tokens); },
                          [&](const Fuse&) { tokens = {joined(tokens)}; },
                          [&](const Replace& s) {
                            for (std::string& token : tokens) token = replaced(token, s.pattern, s.content);
                          },
                          [&](const Strip& s) {
                            for (std::string& token : tokens) token = stripped(token, s.content, s.start, s.stop);
                          },
                          [&](const Metaspace& s) {
                            for (std::size_t i = 0; i < tokens.size(); ++i)
                              tokens[i] = replaced(tokens[i], s.mark, i == 0 && s.strip_first ? "" : " ");
                          }},
               step);
  return unicode::lossy_utf8(joined(tokens));
}

std::string Decoder::bytes(std::string_view token) const {
  std::string out(token);
  for (const auto& step : steps_)
    std::visit(Overloaded{[&](const ByteLevel&) { out = from_byte_alphabet(out).value_or(out); },
                          [&](const ByteFallback&) {
                            if (const int byte = byte_of(out); byte >= 0) out = std::string(1, static_cast<char>(byte));
                          },
                          [&](const Replace& s) { out = replaced(out, s.pattern, s.content); },
                          [&](const Metaspace& s) { out = replaced(out, s.mark, " "); }, [](const auto&) {}},
               step);
  return out;
}

}  // namespace kvgrind::traces
