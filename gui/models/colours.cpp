#include "gui/models/colours.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kvgrind::gui {
namespace {

// Evenly spaced anchors, joined linearly.
ColourTable table_of(const std::vector<Rgb>& anchors) {
  ColourTable out{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double at = static_cast<double>(i) / 255.0 * static_cast<double>(anchors.size() - 1);
    const auto left = std::min(static_cast<std::size_t>(at), anchors.size() - 2);
    const double t = at - static_cast<double>(left);
    Rgb colour = 0xFF;
    for (const int shift : {16, 8, 0}) {
      const double a = (anchors[left] >> shift) & 0xFF, b = (anchors[left + 1] >> shift) & 0xFF;
      colour = colour << 8 | static_cast<Rgb>(std::lround(a + t * (b - a)));
    }
    out[i] = colour;
  }
  return out;
}

}  // namespace

const char* colour_map_name(int map) {
  constexpr const char* names[] = {"viridis", "ember", "ink"};
  return names[std::clamp(map, 0, colour_maps - 1)];
}

const ColourTable& colour_table(int map) {
  static const std::array<ColourTable, colour_maps> tables = {
      table_of({0x440154, 0x482878, 0x3E4A89, 0x31688E, 0x26828E, 0x1F9E89, 0x35B779, 0x6DCD59, 0xB4DE2C, 0xFDE725}),
      table_of({0x08060C, 0x2A0F45, 0x5D1566, 0x932667, 0xC73E4C, 0xED6925, 0xFBA40A, 0xF7E27A, 0xFCFFD9}),
      table_of({0xF7F9FC, 0xD9E4F1, 0xABC6E3, 0x74A3D0, 0x467FB8, 0x275B97, 0x143A6C, 0x071B3A})};
  return tables[static_cast<std::size_t>(std::clamp(map, 0, colour_maps - 1))];
}

const ColourTable& diverging_table() {
  static const ColourTable table = table_of({0x08519C, 0x4292C6, 0x9ECAE1, 0xF2F2F0, 0xFDBE85, 0xE6791E, 0xA63603});
  return table;
}

Rgb job_colour(std::size_t job) {
  constexpr Rgb colours[] = {0xFF0072B2, 0xFFD55E00, 0xFF009E73, 0xFFCC79A7,
                             0xFFE69F00, 0xFF56B4E9, 0xFF7A5195, 0xFF8C8C8C};
  return colours[job % 8];
}

Rgb state_colour(std::uint8_t state, bool dark) {
  if (state >= 32) return 0xFF8C6D31;  // disk
  if (state >= 16) return 0xFF56B4E9;  // host
  switch (state) {
    case 1:
      return 0xFF0072B2;
    case 2:
      return 0xFF009E73;
    case 3:
      return 0xFFE69F00;
    case 4:
      return 0xFFCC79A7;
    case 5:
      return dark ? 0xFF5A5A66 : 0xFFC9C9D0;
    default:
      return dark ? 0xFF2B2B31 : 0xFFECECEF;
  }
}

const char* state_name(std::uint8_t state) {
  if (state >= 32) return "on disk";
  if (state >= 16) return "on the host";
  constexpr const char* names[] = {"dropped", "exact", "merged", "coded", "recomputable", "expired"};
  return state < 6 ? names[state] : "unknown";
}

std::uint8_t shade(float value, float low, float high, bool log) {
  if (!(value > low)) return 0;
  if (value >= high) return 255;
  const float t =
      log ? (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low)) : (value - low) / (high - low);
  return static_cast<std::uint8_t>(std::clamp(std::lround(255.0f * t), 0l, 255l));
}

}  // namespace kvgrind::gui
