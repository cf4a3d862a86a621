#include "gui/views/pareto_plot.h"

#include <algorithm>
#include <cmath>

#include "gui/views/plot.h"

namespace kvgrind::gui {
namespace {

QString point_words(const ParetoData& data, const ParetoSeries& series, const ParetoPoint& p) {
  return QString("%1, %2: %3 %4 [%5, %6] over %7 prompts, at %8 of the bytes")
      .arg(QString::fromStdString(series.name), QString::fromStdString(p.budget), QString::fromStdString(data.y),
           QString::fromStdString(short_number(p.y.value)), QString::fromStdString(short_number(p.y.lo)),
           QString::fromStdString(short_number(p.y.hi)))
      .arg(p.y.n)
      .arg(QString::fromStdString(percent(p.x)));
}

QColor colour_of(const ParetoSeries& series, const Look& look) {
  if (series.reference) return look.faint;
  return series.strong ? QColor::fromRgb(job_colour(series.colour)) : look.grid.darker(look.dark ? 70 : 125);
}

std::function<void(Selection&)> choose(const ParetoSeries& series, const ParetoPoint* point) {
  std::vector<std::string> keys;
  for (const ParetoPoint& one : series.points)
    if (!point || &one == point) keys.push_back(job_key(series.name, one.asked));
  return [keys](Selection& s) { s.jobs = keys; };
}

// Names beside the plot, those that stand out first; as many as fit. A click chooses every budget of a policy.
void draw_names(Canvas& c, const QRectF& area, std::vector<const ParetoSeries*> named) {
  const QFont small = c.look.small();
  std::stable_partition(named.begin(), named.end(),
                        [](const ParetoSeries* one) { return one->strong || one->reference; });
  const double height = line_height(small) + 1;
  const auto fit = std::max<std::size_t>(1, std::size_t(area.height() / height));
  const std::size_t lines = named.size() <= fit ? named.size() : fit - 1;
  for (std::size_t i = 0; i < lines; ++i) {
    const ParetoSeries& one = *named[i];
    const double y = area.top() + double(i) * height;
    const QColor colour = colour_of(one, c.look);
    c.p.setPen(QPen(colour, 1.6, one.reference ? Qt::DashLine : dash(one.colour)));
    c.p.drawLine(QPointF(area.left(), y + height / 2), QPointF(area.left() + 22, y + height / 2));
    if (!one.reference) {
      QCPScatterStyle style = marker(one.colour, colour, c.look, 6);
      style.applyTo(c.plots, QPen(colour));
      style.drawShape(c.plots, area.left() + 11, y + height / 2);
    }
    const QRectF place(area.left() + 27, y, area.width() - 27, height);
    draw_text(c, place, QString::fromStdString(one.name), small, one.strong ? c.look.ink : c.look.faint);
    if (!one.reference)
      c.hit(QRectF(area.left(), y, area.width(), height), QString::fromStdString(one.name), choose(one, nullptr));
  }
  if (lines < named.size())
    draw_text(c, QRectF(area.left(), area.top() + double(lines) * height, area.width(), height),
              QString("and %1 more").arg(named.size() - lines), small, c.look.faint);
}

}  // namespace

QString axis_words(const std::string& metric) {
  if (metric == "stored_frac") return "stored bytes / full cache";
  if (metric == "kept_frac") return "kept tokens / all tokens";
  if (metric == "touched_frac") return "bytes read a step / full cache";
  const QString name = QString::fromStdString(metric);
  for (const auto& [begin, words] :
       {std::pair("predicted_dprob", "predicted loss of probability"), std::pair("dprob", "loss of probability"),
        std::pair("recall", "recall of attention mass"), std::pair("S.", "lost look-ups"),
        std::pair("E.", "output shift"), std::pair("D.", "max(S, 2E)")})
    if (metric.starts_with(begin)) return QString("%1 (%2)").arg(words, name);
  return name;
}

void draw_pareto(Canvas& c, const QRectF& area, const ParetoData& data, bool full) {
  double low_x = 1e300, high_x = 0, low_y = 1e300, high_y = -1e300;
  for (const ParetoSeries& one : data.series)
    for (const ParetoPoint& p : one.points) {
      low_x = std::min(low_x, p.x);
      high_x = std::max(high_x, p.x);
      for (const double y : {p.y.value, full ? p.y.lo : p.y.value, full ? p.y.hi : p.y.value})
        if (std::isfinite(y)) {
          low_y = std::min(low_y, y);
          high_y = std::max(high_y, y);
        }
    }
  if (low_x > high_x) return draw_nothing(c, area, "No results yet.");

  std::vector<const ParetoSeries*> named;
  for (const ParetoSeries& one : data.series)
    if (full || one.strong || one.reference) named.push_back(&one);
  double widest = 0;
  for (const ParetoSeries* one : named)
    widest = std::max(widest, text_width(c.look.small(), QString::fromStdString(one->name)));
  const double names = std::min(area.width() * 0.3, widest + 36);
  const QRectF place = area.adjusted(0, 0, -names - 8, 0);

  const auto plot = make_plot(c.look);
  plot->xAxis->setLabel(axis_words(data.x));
  plot->yAxis->setLabel(axis_words(data.y) + (data.higher_is_better ? ", higher is better" : ", lower is better"));
  set_log(*plot->xAxis);
  QSharedPointer<QCPAxisTickerText> ticks(new QCPAxisTickerText);
  for (const double tick : {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0})
    ticks->addTick(tick, QString::fromStdString(percent(tick)));
  plot->xAxis->setTicker(ticks);
  const double wide = high_x < 1.3 * low_x ? 2.2 : 1.12;
  plot->xAxis->setRange(low_x / wide, high_x * wide);
  const double span = std::max(1e-9, high_y - low_y);
  plot->yAxis->setRange(low_y - 0.04 * span, high_y + 0.06 * span);

  plot->addLayer("back", plot->layer("grid"), QCustomPlot::limAbove);
  QList<double> chosen_x, chosen_y;
  for (const ParetoSeries& one : data.series) {
    const QColor colour = colour_of(one, c.look);
    QList<double> x, y, less, more;
    for (const ParetoPoint& p : one.points) {
      x.push_back(p.x);
      y.push_back(p.y.value);
      less.push_back(std::isfinite(p.y.lo) ? p.y.value - p.y.lo : 0);
      more.push_back(std::isfinite(p.y.hi) ? p.y.hi - p.y.value : 0);
      if (!p.chosen) continue;
      chosen_x.push_back(p.x);
      chosen_y.push_back(p.y.value);
    }
    QCPGraph* graph = plot->addGraph();
    graph->setData(x, y, true);
    QColor line = colour;
    line.setAlpha(one.reference || !one.strong ? 255 : 190);
    graph->setPen(QPen(line,
                       one.reference ? 1.2
                       : one.strong  ? 1.4
                                     : 0.8,
                       one.reference ? Qt::DashLine
                       : one.strong  ? dash(one.colour)
                                     : Qt::SolidLine));
    if (!one.reference) graph->setScatterStyle(marker(one.colour, colour, c.look, !one.strong ? 4 : full ? 7 : 5));
    if (!one.strong) graph->setLayer("back");
    if (full && !one.reference && one.strong) {
      auto* bars = new QCPErrorBars(plot->xAxis, plot->yAxis);
      bars->setDataPlottable(graph);
      bars->setData(less, more);
      QColor faint = colour;
      faint.setAlpha(110);
      bars->setPen(QPen(faint, 1));
      bars->setWhiskerWidth(4);
      bars->setSymbolGap(0);
    }
  }
  QCPGraph* rings = plot->addGraph();
  rings->setLineStyle(QCPGraph::lsNone);
  rings->setScatterStyle(QCPScatterStyle(QCPScatterStyle::ssCircle, QPen(c.look.accent, 2), Qt::NoBrush, 14));
  rings->setData(chosen_x, chosen_y, true);
  QList<double> hull_x, hull_y;
  std::vector<const ParetoPoint*> hull;
  for (const ParetoSeries& one : data.series)
    for (const ParetoPoint& p : one.points)
      if (p.hull) hull.push_back(&p);
  std::sort(hull.begin(), hull.end(), [](const auto* a, const auto* b) { return a->x < b->x; });
  for (const ParetoPoint* p : hull) {
    hull_x.push_back(p->x);
    hull_y.push_back(p->y.value);
  }
  QCPGraph* front = plot->addGraph();
  front->setData(hull_x, hull_y, true);
  front->setLineStyle(QCPGraph::lsStepLeft);
  QColor ink = c.look.ink;
  ink.setAlpha(120);
  front->setPen(QPen(ink, 4));
  plot->addLayer("front", plot->layer("back"), QCustomPlot::limAbove);
  front->setLayer("front");
  draw_plot(c, place, *plot);
  for (const ParetoSeries& one : data.series)
    for (const ParetoPoint& p : one.points) {
      const QPointF at =
          place.topLeft() + QPointF(plot->xAxis->coordToPixel(p.x), plot->yAxis->coordToPixel(p.y.value));
      c.hit(QRectF(at - QPointF(6, 6), QSizeF(12, 12)), point_words(data, one, p), choose(one, &p));
    }
  // References by name where they begin, on a ground of their own so that marks do not cross the words.
  std::vector<QRectF> named_here;
  for (const ParetoSeries& one : data.series) {
    if (!one.reference || one.points.empty()) continue;
    const QPointF at = place.topLeft() + QPointF(plot->xAxis->coordToPixel(one.points.front().x),
                                                 plot->yAxis->coordToPixel(one.points.front().y.value));
    const QString name = QString::fromStdString(one.name);
    const double width = text_width(c.look.small(), name);
    const double x = one.points.size() > 1 && at.x() + width + 4 < place.right() - 60 ? at.x() + 4 : at.x() - width - 5;
    const QRectF words(x, at.y() - line_height(c.look.small()) - 2, width, line_height(c.look.small()));
    // The names beside the plot have them all: none lies over another.
    if (std::any_of(named_here.begin(), named_here.end(), [&](const QRectF& other) { return other.intersects(words); }))
      continue;
    named_here.push_back(words);
    QColor ground = c.look.ground;
    ground.setAlpha(215);
    c.p.fillRect(words.adjusted(-2, 1, 2, -1), ground);
    draw_text(c, words, name, c.look.small(), c.look.faint);
  }
  draw_names(c, QRectF(place.right() + 8, place.top() + 4, names, area.height() - 8), named);
}

}  // namespace kvgrind::gui
