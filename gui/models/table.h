// A small table of text: what a view exports as CSV, and what a table shows.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvgrind::gui {

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::string csv() const;  // RFC 4180 with \n
};

std::string number(double value);        // shortest that reads back as a float; "nan"
std::string short_number(double value);  // three significant digits, for labels
std::string bytes_text(double bytes);    // "1.8 MB"
std::string percent(double share);       // "20 %", "0.52 %"
// One token as a label: control characters and line ends made visible, invalid UTF-8 as \xNN; at most `most`
// characters.
std::string token_label(std::string_view bytes, std::size_t most = 24);

}  // namespace kvgrind::gui
