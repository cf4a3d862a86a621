// Tokens broken into lines of so many characters; fast enough for a million tokens.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kvgrind::gui {

struct TextLines {
  std::vector<std::int64_t> first;  // token of each line's begin
  std::vector<std::int32_t> width;  // characters of each token's label
  std::int64_t tokens = 0;
  std::int64_t end(std::size_t line) const { return line + 1 < first.size() ? first[line + 1] : tokens; }
  std::size_t line_of(std::int64_t token) const;
};
// A line ends where the next token does not fit, and after a token that ends with a line end.
TextLines text_lines(const std::vector<std::string>& tokens, std::int64_t columns);
std::string plain_label(const std::string& bytes);  // what is drawn for a token: blanks stay blanks

}  // namespace kvgrind::gui
