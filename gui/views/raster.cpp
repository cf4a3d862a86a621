#include "gui/views/raster.h"

#include <algorithm>
#include <cmath>

namespace kvgrind::gui {

std::pair<double, double> shown_keys(const ViewState& state, const ViewInput& input, std::int64_t tokens) {
  const Selection& at = input.at;
  if (!state.window.isEmpty()) return {state.window.left(), state.window.right()};
  if (input.map.follow && !at.key.empty()) return {double(at.key.begin), double(at.key.end)};
  return {0.0, double(std::max<std::int64_t>(1, tokens))};
}

void draw_raster(Canvas& c, const HeatAxes& axes, const CategoryRaster& raster,
                 const std::function<QColor(std::uint8_t)>& colour) {
  const int columns = std::max(1, int(axes.plot.width() * c.look.device_pixels)), rows = int(raster.rows());
  if (rows == 0) return;
  std::vector<QColor> colours;
  for (const std::uint8_t one : raster.present()) colours.push_back(colour(one));
  QImage image(columns, rows, QImage::Format_RGB32);
  std::vector<std::int64_t> counts;
  for (int r = 0; r < rows; ++r) {
    auto* line = reinterpret_cast<QRgb*>(image.scanLine(r));
    for (int x = 0; x < columns; ++x) {
      const double a = axes.x0 + (axes.x1 - axes.x0) * x / columns,
                   b = axes.x0 + (axes.x1 - axes.x0) * (x + 1) / columns;
      const auto begin = std::int64_t(a), end = std::max(begin + 1, std::int64_t(std::ceil(b - 1e-9)));
      raster.count(r, begin, end, counts);
      std::int64_t red = 0, green = 0, blue = 0, all = 0;
      for (std::size_t s = 0; s < counts.size(); ++s) {
        red += counts[s] * colours[s].red();
        green += counts[s] * colours[s].green();
        blue += counts[s] * colours[s].blue();
        all += counts[s];
      }
      line[x] = all ? qRgb(int(red / all), int(green / all), int(blue / all)) : c.look.ground.rgb();
    }
  }
  c.p.drawImage(axes.plot, image);
}

void draw_ranges(Canvas& c, const HeatAxes& axes, const ViewInput& input, bool rows) {
  const Range key = input.at.key, query = rows ? input.at.query : Range{};
  if (input.map.follow || (key.empty() && query.empty())) return;
  QRectF frame = axes.plot.adjusted(0, 1, 0, -1);
  if (!key.empty()) {
    frame.setLeft(axes.x(double(key.begin)));
    frame.setRight(axes.x(double(key.end)));
  }
  if (!query.empty()) {
    frame.setTop(axes.y(double(query.begin)));
    frame.setBottom(axes.y(double(query.end)));
  }
  c.p.save();
  c.p.setClipRect(axes.plot, Qt::IntersectClip);
  c.p.setPen(QPen(c.look.accent, 1, Qt::DashLine));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(frame);
  c.p.restore();
}

void draw_key_cursor(Canvas& c, const HeatAxes& axes, const Selection& at) {
  const double key = double(at.key_at);
  if (key < 0 || key < axes.x0 || key >= axes.x1) return;
  c.p.setPen(QPen(c.look.accent, 1));
  c.p.drawLine(QPointF(axes.x(key + 0.5), axes.plot.top()), QPointF(axes.x(key + 0.5), axes.plot.bottom()));
}

void draw_line_cursor(Canvas& c, const HeatAxes& axes, double y) {
  if (y < 0 || y < axes.y0 || y > axes.y1) return;
  c.p.setPen(QPen(c.look.accent, 1));
  c.p.drawLine(QPointF(axes.plot.left(), axes.y(y)), QPointF(axes.plot.right(), axes.y(y)));
}

AxisLabels layer_labels(std::int64_t layers, std::int64_t per) {
  AxisLabels out;
  for (std::int64_t l = 0; l < layers; ++l) out.y.emplace_back((double(l) + 0.5) * double(per), QString("L%1").arg(l));
  return out;
}

std::int64_t query_heads_per(const ViewInput& input, std::int64_t heads) {
  return std::max<std::int64_t>(1, input.session->run().card().query_heads / std::max<std::int64_t>(1, heads));
}

QString head_name(const ViewInput& input, std::int64_t heads, std::int64_t head) {
  return QString(heads == input.session->run().card().kv_heads ? "kv%1" : "q%1").arg(head);
}

std::function<void(Selection&)> choose_group(const ViewInput& input, std::int64_t heads, std::int64_t layer,
                                             std::int64_t head, std::int64_t key) {
  return [per = query_heads_per(input, heads), layer, head, key](Selection& s) {
    s.layer = layer;
    s.query_head = head * per;
    if (key >= 0) s.key_at = key;
  };
}

HeatAxes panel_axes(const Canvas& c, const QRectF& area, double title, double right, bool last,
                    const QString& x_title) {
  const QRectF inner = area.adjusted(0, title, 0, 0);
  HeatAxes out{.plot = heat_plot_area(c, inner, right), .x_title = last ? x_title : QString(), .y_title = ""};
  if (!last) out.plot.setBottom(inner.bottom() - 7);
  if (out.plot.height() < 4) out.plot.setHeight(4);
  return out;
}

}  // namespace kvgrind::gui
