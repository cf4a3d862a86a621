// Tokens broken into lines of so many characters; fast enough for a million tokens.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kvgrind::gui {

// Of each token's label: characters, and whether a line ends after it. Made once, off the GUI thread.
struct TextWidths {
  std::vector<std::int32_t> width;
  std::vector<bool> ends_line;
};
TextWidths text_widths(const std::vector<std::string>& tokens);

struct TextLines {
  std::vector<std::int64_t> first;  // token of each line's begin
  std::int64_t tokens = 0;
  std::int64_t end(std::size_t line) const { return line + 1 < first.size() ? first[line + 1] : tokens; }
  std::size_t line_of(std::int64_t token) const;
};
// A line ends where the next token does not fit, and after a token that ends with a line end.
TextLines text_lines(const TextWidths& widths, std::int64_t columns);
std::string plain_label(const std::string& bytes);  // what is drawn for a token: blanks stay blanks

}  // namespace kvgrind::gui
