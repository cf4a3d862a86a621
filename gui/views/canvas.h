// What a scene paints on: painter, look, and the places that answer the pointer. The painter is always a QCPPainter,
// so that QCustomPlot can draw through it (see plot.h).
#pragma once
#include <QPainter>
#include <QRectF>
#include <QString>
#include <functional>
#include <optional>
#include <vector>

#include "core/progress.h"
#include "gui/models/colours.h"
#include "gui/models/selection.h"
#include "gui/views/look.h"

class QCPPainter;

namespace kvgrind::gui {

// What lies under a point: words for it, what a click on it selects (may be empty), and the view a click goes to.
struct Hit {
  QString text;
  std::function<void(Selection&)> select;
  std::string view = {};
};

struct HitArea {
  QRectF area;
  std::function<std::optional<Hit>(QPointF)> at;
};

// Work that would make the picture better: run on a worker, then paint again.
using Wanted = std::function<void(const CancelToken&)>;

struct Canvas {
  QPainter& p;
  QCPPainter* plots;
  const Look& look;
  std::vector<HitArea> hits = {};
  std::vector<Wanted> wanted = {};
  QRectF plot = {};   // where data coordinates lie, when the scene can be zoomed
  QRectF shown = {};  // the data coordinates it shows; of a scene that scrolls: first line and number of lines

  void hit(const QRectF& area, QString text, std::function<void(Selection&)> select = {});
  void hit(const QRectF& area, std::function<std::optional<Hit>(QPointF)> at);
  std::optional<Hit> find(QPointF at) const;
};

// A policy's colour for its name: lighter on dark ground, where the darker ones cannot be read.
QColor job_ink(const Look& look, std::size_t job);

// Helpers. Sizes in logical pixels.
double text_width(const QFont& font, const QString& text);
double line_height(const QFont& font);
// One line within `area`, elided at the end when it does not fit.
void draw_text(Canvas& c, const QRectF& area, const QString& text, const QFont& font, const QColor& colour,
               Qt::Alignment alignment = Qt::AlignLeft | Qt::AlignVCenter);
// Wrapped lines; returns the height used.
double draw_paragraph(Canvas& c, const QRectF& area, const QString& text, const QFont& font, const QColor& colour);
// Centred words where there is nothing to draw.
void draw_nothing(Canvas& c, const QRectF& area, const QString& text);
void draw_hatched(Canvas& c, const QRectF& area);

// Round positions for about `wanted` ticks in [low, high].
std::vector<double> round_ticks(double low, double high, int wanted);

// Axes of a heat map: positions of tokens (or anything counted) along the edges.
struct HeatAxes {
  QRectF plot;
  double x0 = 0, x1 = 1, y0 = 0, y1 = 1;  // y downwards
  QString x_title, y_title;
  double x(double value) const { return plot.left() + (value - x0) / (x1 - x0) * plot.width(); }
  double y(double value) const { return plot.top() + (value - y0) / (y1 - y0) * plot.height(); }
  double column(double px) const { return x0 + (px - plot.left()) / plot.width() * (x1 - x0); }
  double row(double px) const { return y0 + (px - plot.top()) / plot.height() * (y1 - y0); }
};
// The part of `area` that is left for the plot beside numbers and titles; `right` is kept free for a colour bar.
QRectF heat_plot_area(const Canvas& c, const QRectF& area, double right);
struct AxisLabels {
  std::vector<std::pair<double, QString>> x, y;  // empty: numbers
};
void draw_axes(Canvas& c, const HeatAxes& axes, const AxisLabels& labels = {});
constexpr double colour_bar_width = 70;
// At the right of `plot`, within colour_bar_width.
void draw_colour_bar(Canvas& c, const QRectF& plot, const ColourTable& table, double low, double high, bool log,
                     const QString& title);

struct LegendItem {
  QString text;
  QColor colour;
  int shape = 0;  // 0 box, 1 line, 2 dashed line
};
// Wrapped in lines at the top of `area`; returns the height used.
double draw_legend(Canvas& c, const QRectF& area, const std::vector<LegendItem>& items);

}  // namespace kvgrind::gui
