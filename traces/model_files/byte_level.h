// The byte alphabet of byte-level tokenizers: each byte stands as one printable character, so that vocabularies are
// text. 0x21–0x7E, 0xA1–0xAC and 0xAE–0xFF stand for themselves, the others in order from U+0100 on (space: U+0120).
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace kvgrind::traces {

std::string to_byte_alphabet(std::string_view bytes);
// Nothing when a character is outside the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace kvgrind::traces
