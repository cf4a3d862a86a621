#include "gui/models/text_lines.h"

#include <algorithm>

#include "gui/models/table.h"

namespace kvgrind::gui {

std::string plain_label(const std::string& bytes) {
  std::string out = token_label(bytes, 64);
  const std::string blank = "␣";
  for (std::size_t at = out.find(blank); at != std::string::npos; at = out.find(blank, at + 1))
    out.replace(at, blank.size(), " ");
  return out;
}

TextWidths text_widths(const std::vector<std::string>& tokens) {
  TextWidths out;
  out.width.reserve(tokens.size());
  out.ends_line.reserve(tokens.size());
  for (const std::string& token : tokens) {
    const std::string label = plain_label(token);
    out.width.push_back(static_cast<std::int32_t>(std::count_if(
        label.begin(), label.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; })));
    out.ends_line.push_back(!token.empty() && token.back() == '\n');
  }
  return out;
}

TextLines text_lines(const TextWidths& widths, std::int64_t columns) {
  TextLines out{.first = {}, .tokens = static_cast<std::int64_t>(widths.width.size())};
  std::int64_t used = 0;
  bool fresh = true;
  for (std::size_t t = 0; t < widths.width.size(); ++t) {
    if (fresh || used + widths.width[t] > columns) {
      out.first.push_back(static_cast<std::int64_t>(t));
      used = 0;
    }
    used += widths.width[t];
    fresh = widths.ends_line[t];
  }
  return out;
}

std::size_t TextLines::line_of(std::int64_t token) const {
  if (first.empty()) return 0;
  return static_cast<std::size_t>(std::upper_bound(first.begin(), first.end(), token) - first.begin() - 1);
}

}  // namespace kvgrind::gui
