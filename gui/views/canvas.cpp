#include "gui/views/canvas.h"

#include <QFontMetricsF>
#include <algorithm>
#include <cmath>

#include "gui/models/table.h"

namespace kvgrind::gui {

void Canvas::hit(const QRectF& area, QString text, std::function<void(Selection&)> select) {
  hits.push_back({area, [hit = Hit{std::move(text), std::move(select)}](QPointF) { return std::optional<Hit>(hit); }});
}

void Canvas::hit(const QRectF& area, std::function<std::optional<Hit>(QPointF)> at) {
  hits.push_back({area, std::move(at)});
}

std::optional<Hit> Canvas::find(QPointF at) const {
  for (auto it = hits.rbegin(); it != hits.rend(); ++it)
    if (it->area.contains(at))
      if (auto found = it->at(at)) return found;
  return std::nullopt;
}

QColor job_ink(const Look& look, std::size_t job) {
  const QColor colour = QColor::fromRgb(job_colour(job));
  return look.dark && colour.lightness() < 128 ? colour.lighter(165) : colour;
}

double text_width(const QFont& font, const QString& text) { return QFontMetricsF(font).horizontalAdvance(text); }
double line_height(const QFont& font) { return QFontMetricsF(font).height(); }

void draw_text(Canvas& c, const QRectF& area, const QString& text, const QFont& font, const QColor& colour,
               Qt::Alignment alignment) {
  c.p.setFont(font);
  c.p.setPen(colour);
  const QFontMetricsF metrics(font);
  const QString shown = metrics.horizontalAdvance(text) > area.width() + 1
                            ? metrics.elidedText(text, Qt::ElideRight, area.width())
                            : text;
  c.p.drawText(area, static_cast<int>(alignment) | Qt::TextDontClip | Qt::TextSingleLine, shown);
}

double draw_paragraph(Canvas& c, const QRectF& area, const QString& text, const QFont& font, const QColor& colour) {
  c.p.setFont(font);
  c.p.setPen(colour);
  const QRectF needed = QFontMetricsF(font).boundingRect(area, Qt::TextWordWrap | Qt::AlignLeft | Qt::AlignTop, text);
  c.p.drawText(area, Qt::TextWordWrap | Qt::AlignLeft | Qt::AlignTop, text);
  return std::min(needed.height(), area.height());
}

void draw_nothing(Canvas& c, const QRectF& area, const QString& text) {
  c.p.setFont(c.look.font);
  c.p.setPen(c.look.faint);
  c.p.drawText(area, Qt::TextWordWrap | Qt::AlignCenter, text);
}

void draw_hatched(Canvas& c, const QRectF& area) {
  if (area.isEmpty()) return;
  c.p.save();
  c.p.setClipRect(area, Qt::IntersectClip);
  c.p.setPen(QPen(c.look.grid, 1));
  for (double x = area.left() - area.height(); x < area.right(); x += 7)
    c.p.drawLine(QPointF(x, area.bottom()), QPointF(x + area.height(), area.top()));
  c.p.restore();
}

std::vector<double> round_ticks(double low, double high, int wanted) {
  std::vector<double> out;
  if (!(high > low) || wanted < 1) return out;
  const double raw = (high - low) / wanted, decade = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * decade;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * decade >= raw) {
      step = factor * decade;
      break;
    }
  for (double tick = std::ceil(low / step - 1e-9) * step; tick <= high + 1e-9 * step; tick += step)
    out.push_back(std::abs(tick) < step * 1e-9 ? 0.0 : tick);
  return out;
}

QRectF heat_plot_area(const Canvas& c, const QRectF& area, double right) {
  const double left = text_width(c.look.small(), "000000") + line_height(c.look.font) + 14;
  const double bottom = 2 * line_height(c.look.small()) + 12;
  return area.adjusted(left, 4, -std::max(right, 12.0), -bottom);
}

namespace {

QString tick_text(double value) {
  return value == std::round(value) ? QString::number(static_cast<qlonglong>(value)) : QString::number(value);
}

}  // namespace

void draw_axes(Canvas& c, const HeatAxes& axes, const AxisLabels& labels) {
  const QFont small = c.look.small();
  const double height = line_height(small);
  c.p.setPen(QPen(c.look.faint, 1));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(axes.plot);
  const auto all = [&](bool x) {
    const auto& own = x ? labels.x : labels.y;
    if (!own.empty()) return own;
    std::vector<std::pair<double, QString>> out;
    const double pixels = x ? axes.plot.width() : axes.plot.height();
    const double apart = x ? text_width(small, "0000000") : 2.2 * height;
    for (const double tick :
         round_ticks(x ? axes.x0 : axes.y0, x ? axes.x1 : axes.y1, std::max(1, static_cast<int>(pixels / apart / 1.6))))
      out.emplace_back(tick, tick_text(tick));
    return out;
  };
  double last_end = -1e9;
  for (const auto& [value, text] : all(true)) {
    const double x = axes.x(value);
    if (x < axes.plot.left() - 0.5 || x > axes.plot.right() + 0.5) continue;
    const double width = text_width(small, text);
    if (x - width / 2 < last_end + 4) continue;  // no label over another
    last_end = x + width / 2;
    c.p.setPen(QPen(c.look.faint, 1));
    c.p.drawLine(QPointF(x, axes.plot.bottom()), QPointF(x, axes.plot.bottom() + 4));
    draw_text(c, QRectF(x - width / 2, axes.plot.bottom() + 5, width, height), text, small, c.look.ink,
              Qt::AlignCenter);
  }
  double last_bottom = -1e9;
  for (const auto& [value, text] : all(false)) {
    const double y = axes.y(value);
    if (y < axes.plot.top() - 0.5 || y > axes.plot.bottom() + 0.5 || y - height / 2 < last_bottom) continue;
    last_bottom = y + height / 2;
    c.p.setPen(QPen(c.look.faint, 1));
    c.p.drawLine(QPointF(axes.plot.left() - 4, y), QPointF(axes.plot.left(), y));
    const double room = axes.plot.left() - 7;
    draw_text(c, QRectF(0, y - height / 2, room, height), text, small, c.look.ink, Qt::AlignRight | Qt::AlignVCenter);
  }
  draw_text(c, QRectF(axes.plot.left(), axes.plot.bottom() + 7 + height, axes.plot.width(), height), axes.x_title,
            small, c.look.faint, Qt::AlignCenter);
  if (axes.y_title.isEmpty()) return;
  c.p.save();
  c.p.translate(axes.plot.left() - text_width(small, "000000") - height - 8, axes.plot.center().y());
  c.p.rotate(-90);
  draw_text(c, QRectF(-axes.plot.height() / 2, -height / 2, axes.plot.height(), height), axes.y_title, small,
            c.look.faint, Qt::AlignCenter);
  c.p.restore();
}

void draw_colour_bar(Canvas& c, const QRectF& plot, const ColourTable& table, double low, double high, bool log,
                     const QString& title) {
  const QFont small = c.look.small();
  const double height = line_height(small);
  const QRectF bar(plot.right() + 14, plot.top() + height + 6, 12, std::min(220.0, plot.height() - height - 8));
  if (bar.height() < 40) return;
  QImage image(1, 256, QImage::Format_RGB32);
  for (int i = 0; i < 256; ++i) image.setPixel(0, i, table[static_cast<std::size_t>(255 - i)]);
  c.p.drawImage(bar, image);
  c.p.setPen(QPen(c.look.faint, 1));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(bar);
  draw_text(c, QRectF(bar.left() - 4, plot.top() - 2, colour_bar_width - 4, height), title, small, c.look.faint);
  std::vector<double> ticks;
  if (log)
    for (double tick = low; tick <= high * 1.001; tick *= 10) ticks.push_back(tick);
  else
    ticks = round_ticks(low, high, std::max(1, static_cast<int>(bar.height() / (2.5 * height))));
  for (const double tick : ticks) {
    const double t =
        log ? (std::log10(tick) - std::log10(low)) / (std::log10(high) - std::log10(low)) : (tick - low) / (high - low);
    const double y = bar.bottom() - t * bar.height();
    c.p.setPen(QPen(c.look.faint, 1));
    c.p.drawLine(QPointF(bar.right(), y), QPointF(bar.right() + 3, y));
    const QString text = log && tick < 0.01 ? QString("1e%1").arg(std::lround(std::log10(tick)))
                                            : QString::fromStdString(short_number(tick));
    draw_text(c, QRectF(bar.right() + 6, y - height / 2, colour_bar_width - 34, height), text, small, c.look.ink);
  }
}

double draw_legend(Canvas& c, const QRectF& area, const std::vector<LegendItem>& items) {
  const QFont small = c.look.small();
  const double height = line_height(small) + 3;
  double x = area.left(), y = area.top();
  for (const LegendItem& item : items) {
    const double width = std::min(text_width(small, item.text) + 36, area.width());
    if (x + width > area.right() && x > area.left()) {
      x = area.left();
      y += height;
    }
    const QRectF mark(x, y + height / 2 - 5, 16, 10);
    if (item.shape == 0) {
      c.p.fillRect(mark, item.colour);
      c.p.setPen(QPen(c.look.faint, 0.7));
      c.p.setBrush(Qt::NoBrush);
      c.p.drawRect(mark);
    } else {
      c.p.setPen(QPen(item.colour, 2, item.shape == 2 ? Qt::DashLine : Qt::SolidLine));
      c.p.drawLine(QPointF(mark.left(), mark.center().y()), QPointF(mark.right(), mark.center().y()));
    }
    draw_text(c, QRectF(x + 21, y, width - 24, height), item.text, small, c.look.ink);
    x += width;
  }
  return items.empty() ? 0 : y + height - area.top();
}

}  // namespace kvgrind::gui
