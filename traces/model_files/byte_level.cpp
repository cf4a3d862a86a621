#include "traces/model_files/byte_level.h"

#include <array>

#include "traces/model_files/unicode.h"

namespace kvgrind::traces {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) alphabet[byte] = stands_for_itself(byte) ? byte : next++;
  return alphabet;
}
constexpr std::array<char32_t, 256> alphabet = make_alphabet();

constexpr std::array<int, 0x144> make_inverse() {
  std::array<int, 0x144> inverse{};
  for (int& byte : inverse) byte = -1;
  for (unsigned byte = 0; byte < 256; ++byte) inverse[alphabet[byte]] = static_cast<int>(byte);
  return inverse;
}
constexpr std::array<int, 0x144> inverse = make_inverse();

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) unicode::append_utf8(text, alphabet[static_cast<unsigned char>(c)]);
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const unicode::Character c = unicode::character_at(text, at);
    if (c.code >= inverse.size() || inverse[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(inverse[c.code]));
    at += c.size_bytes;
  }
  return bytes;
}

}  // namespace kvgrind::traces
