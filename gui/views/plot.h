// Axes and curves through QCustomPlot, in the look of the views. GUI thread only: a plot is a widget, never shown.
#pragma once
#include <memory>

#include "gui/views/canvas.h"
#include "gui/views/qcp.h"

namespace kvgrind::gui {

std::unique_ptr<QCustomPlot> make_plot(const Look& look);
void style_axes(const Look& look, QCPAxisRect& rect);
void set_log(QCPAxis& axis);
// Draws the plot into `area`; afterwards coordToPixel plus area.topLeft() is where things are.
void draw_plot(Canvas& canvas, const QRectF& area, QCustomPlot& plot);
QCPScatterStyle marker(std::size_t series, const QColor& colour, const Look& look, double size = 7);
Qt::PenStyle dash(std::size_t series);

}  // namespace kvgrind::gui
