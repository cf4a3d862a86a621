#include "replay/report/text_table.h"

#include <algorithm>

namespace kvgrind::replay {
namespace {

// Columns on a terminal: code points (continuation bytes do not count).
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u; }));
}

}  // namespace

std::string text_table(const std::vector<std::vector<std::string>>& cells) {
  std::vector<std::size_t> widths;
  for (const auto& line : cells)
    for (std::size_t c = 0; c < line.size(); ++c) {
      if (c == widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], width(line[c]));
    }
  std::string out;
  for (const auto& line : cells) {
    std::string text;
    for (std::size_t c = 0; c < line.size(); ++c) {
      text += "  " + line[c];
      text.append(widths[c] - width(line[c]), ' ');
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  return out;
}

std::string markdown_table(const std::vector<std::vector<std::string>>& cells) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    out += "|";
    for (const std::string& cell : cells[i]) {
      std::string text;
      for (const char c : cell) text += c == '|' ? std::string("\\|") : std::string(1, c);
      out += " " + text + " |";
    }
    out += "\n";
    if (i > 0) continue;
    out += "|";
    for (std::size_t c = 0; c < cells[0].size(); ++c) out += "---|";
    out += "\n";
  }
  return out;
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) out += ',';
    if (cells[i].find_first_of(",\"\n\r") == std::string::npos) {
      out += cells[i];
      continue;
    }
    out += '"';
    for (const char c : cells[i]) out += c == '"' ? std::string("\"\"") : std::string(1, c);
    out += '"';
  }
  return out + "\n";
}

}  // namespace kvgrind::replay
