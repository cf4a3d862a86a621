// What views with keys across share: the keys shown, lines of categories as an image, the key's cursor, names of
// layers and heads, and panels one below the other.
#pragma once
#include <functional>

#include "gui/models/category_raster.h"
#include "gui/models/view_input.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {

// Zoomed to, else selected and followed, else all tokens.
std::pair<double, double> shown_keys(const ViewState& state, const ViewInput& input, std::int64_t tokens);

// Every line of the raster over the axes' plot; where a pixel covers several tokens their colours mix by share.
// Also says which part is shown: c.plot and c.shown stay with the caller.
void draw_raster(Canvas& c, const HeatAxes& axes, const CategoryRaster& raster,
                 const std::function<QColor(std::uint8_t)>& colour);

// Selected keys (and queries, where `rows` are queries) that are not zoomed to, framed.
void draw_ranges(Canvas& c, const HeatAxes& axes, const ViewInput& input, bool rows);

// A line down through the selected key, and one across at `y` (in data coordinates; none when negative).
void draw_key_cursor(Canvas& c, const HeatAxes& axes, const Selection& at);
void draw_line_cursor(Canvas& c, const HeatAxes& axes, double y);

// L0, L1 … in the middle of each layer's `per` lines.
AxisLabels layer_labels(std::int64_t layers, std::int64_t per);
// "kv3" where heads of the cache are shared by query heads, else "q3".
QString head_name(const ViewInput& input, std::int64_t heads, std::int64_t head);
std::int64_t query_heads_per(const ViewInput& input, std::int64_t heads);
// Chooses layer, head of a cache with `heads` heads, and key.
std::function<void(Selection&)> choose_group(const ViewInput& input, std::int64_t heads, std::int64_t layer,
                                             std::int64_t head, std::int64_t key = -1);

// A panel of a stack: axes below a title of `title` height; only the last has room for numbers and a title across.
HeatAxes panel_axes(const Canvas& c, const QRectF& area, double title, double right, bool last, const QString& x_title);

}  // namespace kvgrind::gui
