// Colours as plain numbers: 256-entry maps, and eight policy colours that common colour blindness tells apart.
#pragma once
#include <array>
#include <cstdint>

namespace kvgrind::gui {

using Rgb = std::uint32_t;  // 0xAARRGGBB, opaque
using ColourTable = std::array<Rgb, 256>;

constexpr int colour_maps = 3;
const char* colour_map_name(int map);  // viridis, ember, ink
const ColourTable& colour_table(int map);
const ColourTable& diverging_table();  // blue – pale – orange

constexpr Rgb nan_colour = 0xFFFF00FF;  // magenta
Rgb job_colour(std::size_t job);
Rgb state_colour(std::uint8_t state, bool dark);  // as in plans.h5
const char* state_name(std::uint8_t state);

// 0 … 255 of a value on a linear or log10 scale; values at or below `low` are 0.
std::uint8_t shade(float value, float low, float high, bool log);

}  // namespace kvgrind::gui
