#include "traces/model_files/unicode.h"

#include <algorithm>
#include <span>

#include "traces/model_files/unicode_tables.h"

namespace kvgrind::traces::unicode {
namespace {

unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

// How many bytes from `at` on could begin a valid character, and whether they make one.
struct Prefix {
  std::size_t size_bytes = 1;
  bool whole = false;
};
Prefix prefix_at(std::string_view text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                             : lead >= 0xe0 && lead <= 0xef ? 3
                             : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                            : 1;
  if (length == 1) return {1, false};
  // The second byte's range excludes overlong forms, surrogates and codes past U+10FFFF.
  const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  std::size_t n = 1;
  while (n < length && at + n < text.size()) {
    const unsigned byte = byte_at(text, at + n);
    if (byte < (n == 1 ? low : 0x80u) || byte > (n == 1 ? high : 0xbfu)) break;
    ++n;
  }
  return {n, n == length};
}

bool within(const Range* ranges, std::size_t count, char32_t code) {
  const Range* end = ranges + count;
  const Range* after = std::upper_bound(ranges, end, code, [](char32_t c, const Range& r) { return c < r.first; });
  return after != ranges && code <= (after - 1)->last;
}

}  // namespace

Character character_at(std::string_view text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  if (lead < 0x80) return {lead, 1};
  const Prefix prefix = prefix_at(text, at);
  if (!prefix.whole) return {first_invalid + lead, 1};
  char32_t code = lead & (0xffu >> (prefix.size_bytes + 1));
  for (std::size_t i = 1; i < prefix.size_bytes; ++i) code = code << 6 | (byte_at(text, at + i) & 0x3f);
  return {code, prefix.size_bytes};
}

void append_utf8(std::string& out, char32_t code) {
  const auto add = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code >= first_invalid) {
    add(code - first_invalid);
  } else if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xc0 | code >> 6);
    add(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    add(0xe0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  } else {
    add(0xf0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3f));
    add(0x80 | (code >> 6 & 0x3f));
    add(0x80 | (code & 0x3f));
  }
}

bool is_letter(char32_t code) {
  if (code < 0x80) return (code | 0x20) >= 'a' && (code | 0x20) <= 'z';
  return within(letters, letters_count, code);
}
bool is_number(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  return within(numbers, numbers_count, code);
}
bool is_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 0x09 && code <= 0x0d);
  return within(spaces, spaces_count, code);
}
bool is_word(char32_t code) { return within(words, words_count, code); }

std::string lossy_utf8(std::string_view bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const Prefix prefix = prefix_at(bytes, at);
    if (prefix.whole)
      out.append(bytes.substr(at, prefix.size_bytes));
    else
      out += "\xef\xbf\xbd";
    at += prefix.size_bytes;
  }
  return out;
}

}  // namespace kvgrind::traces::unicode
