// The Pareto plot, as the view of its name and the dashboard draw it.
#pragma once
#include "gui/models/pareto.h"
#include "gui/views/canvas.h"

namespace kvgrind::gui {

QString axis_words(const std::string& metric);
// `full`: with intervals of every point and names beside it; else the hull and references alone are named.
void draw_pareto(Canvas& canvas, const QRectF& area, const ParetoData& data, bool full);

}  // namespace kvgrind::gui
