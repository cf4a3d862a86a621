#include "traces/model_files/split_patterns.h"

#include <algorithm>

#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

using unicode::Character;
using unicode::character_at;

constexpr std::string_view gpt2_text = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3_text =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_text =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool is_newline(char32_t code) { return code == '\r' || code == '\n'; }
bool is_other(char32_t code) {
  return !unicode::is_space(code) && !unicode::is_letter(code) && !unicode::is_number(code);
}

// The end of the run of characters from `at` on that are in `member`, at most `limit` of them.
template <class Member>
std::size_t run_end(std::string_view text, std::size_t at, Member member, std::size_t limit = std::string_view::npos) {
  for (; limit > 0 && at < text.size(); --limit) {
    const Character c = character_at(text, at);
    if (!member(c.code)) break;
    at += c.size_bytes;
  }
  return at;
}

// Lower case as far as contractions need it; the long s folds to s.
char32_t folded(char32_t code) {
  if (code == 0x17f) return 's';
  return code >= 'A' && code <= 'Z' ? code + 32 : code;
}

// The end of 's 't 're 've 'm 'll 'd from `at` on, or `at`.
std::size_t contraction_end(std::string_view text, std::size_t at, bool any_case) {
  if (text[at] != '\'' || at + 1 >= text.size()) return at;
  const auto letter = [&](std::size_t place) -> std::pair<char32_t, std::size_t> {
    if (place >= text.size()) return {0, place};
    const Character c = character_at(text, place);
    return {any_case ? folded(c.code) : c.code, place + c.size_bytes};
  };
  const auto [first, after_first] = letter(at + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return after_first;
  const auto [second, after_second] = letter(after_first);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
    return after_second;
  return at;
}

// What is left for white space at `at`: \s+(?!\S)|\s+, so a run gives up its last character to a text that follows.
std::size_t space_end(std::string_view text, std::size_t at) {
  std::size_t end = at, last = at;
  while (end < text.size()) {
    const Character c = character_at(text, end);
    if (!unicode::is_space(c.code)) break;
    last = end;
    end += c.size_bytes;
  }
  return end == text.size() || last == at ? end : last;
}

// The end of ` ?` followed by a run of `member`, or `at`.
template <class Member>
std::size_t spaced_run_end(std::string_view text, std::size_t at, Member member) {
  const std::size_t begin = text[at] == ' ' ? at + 1 : at;
  const std::size_t end = run_end(text, begin, member);
  return end > begin ? end : at;
}

std::size_t gpt2_end(std::string_view text, std::size_t at) {
  if (const std::size_t end = contraction_end(text, at, false); end > at) return end;
  if (const std::size_t end = spaced_run_end(text, at, unicode::is_letter); end > at) return end;
  if (const std::size_t end = spaced_run_end(text, at, unicode::is_number); end > at) return end;
  if (const std::size_t end = spaced_run_end(text, at, is_other); end > at) return end;
  return space_end(text, at);
}

std::size_t llama3_end(std::string_view text, std::size_t at, std::size_t digits) {
  if (const std::size_t end = contraction_end(text, at, true); end > at) return end;
  const Character first = character_at(text, at);
  const bool letter = unicode::is_letter(first.code), number = unicode::is_number(first.code);
  // [^\r\n\p{L}\p{N}]?\p{L}+
  const std::size_t begin = letter || number || is_newline(first.code) ? at : at + first.size_bytes;
  if (const std::size_t end = run_end(text, begin, unicode::is_letter); end > begin) return end;
  if (number) return run_end(text, at, unicode::is_number, digits);
  if (const std::size_t end = spaced_run_end(text, at, is_other); end > at) return run_end(text, end, is_newline);
  // \s*[\r\n]+ ends behind the last line break of the white space.
  std::size_t end = at, after_newline = at;
  while (end < text.size()) {
    const Character c = character_at(text, end);
    if (!unicode::is_space(c.code)) break;
    end += c.size_bytes;
    if (is_newline(c.code)) after_newline = end;
  }
  return after_newline > at ? after_newline : space_end(text, at);
}

}  // namespace

std::optional<SplitPattern> split_pattern_from_text(std::string_view regex) {
  if (regex == gpt2_text) return SplitPattern::gpt2;
  if (regex == llama3_text) return SplitPattern::llama3;
  if (regex == qwen2_text) return SplitPattern::qwen2;
  return std::nullopt;
}

void split(SplitPattern pattern, std::string_view text, std::vector<std::string_view>& pieces) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = pattern == SplitPattern::gpt2
                                ? gpt2_end(text, at)
                                : llama3_end(text, at, pattern == SplitPattern::llama3 ? 3 : 1);
    pieces.push_back(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace kvgrind::traces
