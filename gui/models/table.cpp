#include "gui/models/table.h"

#include <fmt/format.h>

#include <cmath>

namespace kvgrind::gui {
namespace {

std::string field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

void add_line(std::string& out, const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) out += (i ? "," : "") + field(cells[i]);
  out += '\n';
}

// Length of the well-formed UTF-8 character at the front; 0 = none.
std::size_t character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t n = lead < 0x80 ? 1 : lead >= 0xF0 && lead < 0xF5 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
  if (n == 0 || lead >= 0xF5 || text.size() < n) return 0;
  for (std::size_t i = 1; i < n; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  if (n == 3 && ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F))) return 0;
  if (n == 4 && ((lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F))) return 0;
  return n;
}

}  // namespace

std::string Table::csv() const {
  std::string out;
  add_line(out, header);
  for (const auto& row : rows) add_line(out, row);
  return out;
}

std::string number(double value) {
  if (std::isnan(value)) return "nan";
  return fmt::format("{}", static_cast<float>(value));
}

std::string short_number(double value) {
  if (std::isnan(value)) return "–";
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e6)) return fmt::format("{:.1e}", value);
  return size >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

std::string bytes_text(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (std::abs(bytes) >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3g} {}", bytes, units[unit]);
}

std::string percent(double share) {
  if (std::isnan(share)) return "–";
  return std::abs(share) >= 0.1 || share == 0 ? fmt::format("{:.0f} %", 100 * share)
                                              : fmt::format("{:.2g} %", 100 * share);
}

std::string token_label(std::string_view bytes, std::size_t most) {
  std::string out;
  std::size_t shown = 0;
  while (!bytes.empty()) {
    if (shown++ >= most) return out + "…";
    const std::size_t n = character(bytes);
    const auto lead = static_cast<unsigned char>(bytes[0]);
    if (n == 0) {
      out += fmt::format("\\x{:02X}", lead);
      bytes.remove_prefix(1);
      continue;
    }
    if (lead == '\n')
      out += "⏎";
    else if (lead == '\t')
      out += "→";
    else if (lead == ' ')
      out += "␣";
    else if (lead < 0x20 || lead == 0x7f)
      out += fmt::format("\\x{:02X}", lead);
    else
      out.append(bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  return out;
}

}  // namespace kvgrind::gui
