#include "gui/views/plot.h"

namespace kvgrind::gui {

std::unique_ptr<QCustomPlot> make_plot(const Look& look) {
  auto plot = std::make_unique<QCustomPlot>();
  plot->setBackground(Qt::NoBrush);
  plot->setFont(look.small());
  plot->setNoAntialiasingOnDrag(false);
  style_axes(look, *plot->axisRect());
  return plot;
}

void style_axes(const Look& look, QCPAxisRect& rect) {
  rect.setBackground(Qt::NoBrush);
  for (QCPAxis* axis : rect.axes()) {
    axis->setBasePen(QPen(look.faint, 1));
    axis->setTickPen(QPen(look.faint, 1));
    axis->setSubTickPen(QPen(look.faint, 0.7));
    axis->setTickLength(0, 4);  // outside, as of the heat maps
    axis->setSubTickLength(0, 2);
    axis->setTickLabelFont(look.small());
    axis->setTickLabelColor(look.ink);
    axis->setLabelFont(look.small());
    axis->setLabelColor(look.faint);
    axis->setTickLabelPadding(4);
    axis->setLabelPadding(5);
    axis->setNumberFormat("gbc");
    axis->setNumberPrecision(4);
    axis->grid()->setPen(QPen(look.grid, 1, Qt::SolidLine));
    axis->grid()->setSubGridVisible(false);
    axis->grid()->setZeroLinePen(QPen(look.grid, 1));
  }
}

void set_log(QCPAxis& axis) {
  axis.setScaleType(QCPAxis::stLogarithmic);
  QSharedPointer<QCPAxisTickerLog> ticker(new QCPAxisTickerLog);
  ticker->setLogBase(10);
  ticker->setSubTickCount(8);
  axis.setTicker(ticker);
}

void draw_plot(Canvas& c, const QRectF& area, QCustomPlot& plot) {
  c.p.save();
  c.p.translate(area.topLeft());
  plot.toPainter(c.plots, int(area.width()), int(area.height()));
  c.p.restore();
  c.p.setClipping(false);
}

Qt::PenStyle dash(std::size_t series) {
  constexpr Qt::PenStyle styles[] = {Qt::SolidLine, Qt::DashLine, Qt::DotLine, Qt::DashDotLine};
  return styles[series / 8 % 4];
}

QCPScatterStyle marker(std::size_t series, const QColor& colour, const Look& look, double size) {
  constexpr QCPScatterStyle::ScatterShape shapes[] = {
      QCPScatterStyle::ssDisc,      QCPScatterStyle::ssSquare,           QCPScatterStyle::ssTriangle,
      QCPScatterStyle::ssDiamond,   QCPScatterStyle::ssTriangleInverted, QCPScatterStyle::ssCircle,
      QCPScatterStyle::ssPlusCircle};
  return QCPScatterStyle(shapes[series % 7], QPen(colour, 1.2), QBrush(series % 7 == 5 ? look.ground : colour), size);
}

}  // namespace kvgrind::gui
