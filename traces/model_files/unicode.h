// UTF-8, the character classes that split patterns ask for, and normal form C. Text need not be valid UTF-8:
// a byte that starts no valid character counts as a character of its own, of no class.
#pragma once
#include <string>
#include <string_view>

namespace kvgrind::traces::unicode {

constexpr char32_t first_invalid = 0x110000;  // first_invalid + b stands for the stray byte b

struct Character {
  char32_t code = 0;
  std::size_t size_bytes = 0;
};
// The character at byte `at` < text.size(). Overlong forms, surrogates and codes past U+10FFFF are stray bytes.
Character character_at(std::string_view text, std::size_t at);
// UTF-8 of a code point, or the stray byte itself.
void append_utf8(std::string& out, char32_t code);

bool is_letter(char32_t code);  // general category L
bool is_number(char32_t code);  // general category N
bool is_space(char32_t code);   // White_Space
bool is_word(char32_t code);    // \w: letters, marks, digits, connectors, joiners

// Valid UTF-8; U+FFFD for each maximal ill-formed part (Unicode standard, section 3.9).
std::string lossy_utf8(std::string_view bytes);

// Normal form C. Stray bytes pass through and separate what is around them.
std::string to_nfc(std::string_view text);

}  // namespace kvgrind::traces::unicode
