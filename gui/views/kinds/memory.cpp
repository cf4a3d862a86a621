// Memory over time: stored bytes by kind and tier, stacked, one panel a policy; peak and budget as lines.
#include "gui/models/memory.h"

#include <algorithm>
#include <limits>

#include "gui/views/plot.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

struct Layer {
  const char* name;
  Rgb colour;
  std::int64_t replay::MemoryBytes::*bytes;
};
constexpr Layer layers[] = {{"GPU, exact", 0xFF0072B2, &replay::MemoryBytes::exact},
                            {"GPU, coded", 0xFFE69F00, &replay::MemoryBytes::coded},
                            {"scales, indices, rounding", 0xFFCC79A7, &replay::MemoryBytes::overhead},
                            {"CPU", 0xFF56B4E9, &replay::MemoryBytes::host},
                            {"disk", 0xFF8C6D31, &replay::MemoryBytes::disk}};
constexpr std::size_t most_panels = 6;

class Memory final : public Scene {
 public:
  explicit Memory(const ViewInput& input) : input_(input) {
    for (const ShownJob& job : input.jobs)
      if (MemorySeries series = memory_series(job); !series.points.empty()) series_.push_back(std::move(series));
  }
  QString title() const override { return "Memory over time"; }
  QString subtitle() const override {
    return QString("stored bytes of K and V, all layers and heads, sequence %1; from the end of prefill on%2")
        .arg(input_.at.sequence)
        .arg(series_.size() > most_panels ? QString(", first %1 of %2 policies").arg(most_panels).arg(series_.size())
                                          : QString());
  }
  std::string csv(const ViewState&) const override { return memory_table(series_).csv(); }
  // Tokens seen, then bytes: GPU exact, coded, overhead, CPU, disk. [policies, points, 6]; NaN after the last point.
  Matrix matrix(const ViewState&) const override {
    std::size_t most = 0;
    for (const MemorySeries& one : series_) most = std::max(most, one.points.size());
    if (most == 0) return {};
    Matrix out{.shape = {std::int64_t(series_.size()), std::int64_t(most), 6}, .data = {}};
    for (std::size_t i = 0; i < series_.size(); ++i) {
      for (const auto& p : series_[i].points) {
        out.data.push_back(float(p.seen));
        for (const Layer& layer : layers) out.data.push_back(float(p.bytes.*layer.bytes));
      }
      out.data.resize((i + 1) * most * 6, std::numeric_limits<float>::quiet_NaN());
    }
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  void panel(Canvas& c, const QRectF& area, const MemorySeries& series, double x0, double x1, double top,
             bool last) const;
  ViewInput input_;
  std::vector<MemorySeries> series_;
};

void Memory::panel(Canvas& c, const QRectF& area, const MemorySeries& series, double x0, double x1, double top,
                   bool last) const {
  const auto plot = make_plot(c.look);
  const double unit = top >= 1e9 ? 1e9 : top >= 1e6 ? 1e6 : top >= 1e3 ? 1e3 : 1;
  plot->yAxis->setLabel(unit == 1e9 ? "GB" : unit == 1e6 ? "MB" : unit == 1e3 ? "kB" : "bytes");
  plot->xAxis->setRange(x0, x1);
  plot->yAxis->setRange(0, 1.08 * top / unit);
  if (last) plot->xAxis->setLabel("tokens seen");
  plot->xAxis->ticker()->setTickCount(9);
  const auto points = decimated(series.points, std::int64_t(area.width()));
  QList<double> x;
  x.push_back(x0);
  for (const auto& p : points) x.push_back(double(p.seen));
  x.push_back(x1);
  std::vector<double> base(points.size(), 0.0);
  QCPGraph* below = nullptr;
  for (const Layer& layer : layers) {
    bool any = false;
    QList<double> y;
    for (std::size_t i = 0; i < points.size(); ++i) {
      any |= points[i].bytes.*layer.bytes > 0;
      base[i] += double(points[i].bytes.*layer.bytes);
      y.push_back(base[i] / unit);
    }
    if (!any) continue;
    y.push_front(y.front());
    y.push_back(y.back());
    QCPGraph* graph = plot->addGraph();
    graph->setLineStyle(QCPGraph::lsStepLeft);
    graph->setData(x, y, true);
    const QColor colour = QColor::fromRgb(layer.colour);
    graph->setPen(QPen(colour.darker(115), 1.2));
    QColor fill = colour;
    fill.setAlpha(150);
    graph->setBrush(fill);
    if (below) graph->setChannelFillGraph(below);
    below = graph;
  }
  const auto line = [&](double bytes, Qt::PenStyle style, const QColor& colour) {
    QCPGraph* graph = plot->addGraph();
    graph->setData({x0, x1}, {bytes / unit, bytes / unit}, true);
    graph->setPen(QPen(colour, 1.4, style));
  };
  line(double(series.peak), Qt::DashLine, c.look.ink);
  if (series.budget > 0) line(series.budget, Qt::DotLine, c.look.accent);
  if (input_.at.step >= 0) {
    QCPGraph* cursor = plot->addGraph();
    cursor->setData({double(input_.at.step), double(input_.at.step)}, {0.0, 1.08 * top / unit}, true);
    cursor->setPen(QPen(c.look.accent, 1));
  }
  draw_plot(c, area, *plot);
  const double left = area.left() + plot->axisRect()->left(), right = area.left() + plot->axisRect()->right();
  const MemorySeries own = series;
  c.hit(area, [own, x0, x1, left, right](QPointF at) -> std::optional<Hit> {
    const double seen = x0 + (at.x() - left) / std::max(1.0, right - left) * (x1 - x0);
    const MemorySeries::Point* found = &own.points.front();
    for (const auto& p : own.points)
      if (double(p.seen) <= seen) found = &p;
    const std::int64_t step = found->seen;
    return Hit{QString("%1: %2 tokens seen, %3 stored of %4, %5 read a step")
                   .arg(QString::fromStdString(own.name))
                   .arg(step)
                   .arg(QString::fromStdString(bytes_text(double(found->stored))),
                        QString::fromStdString(bytes_text(double(found->full))),
                        QString::fromStdString(bytes_text(double(found->touched)))),
               [step](Selection& s) { s.step = step; }};
  });
}

void Memory::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (series_.empty()) return draw_nothing(c, area, "No policy is shown. Add one to see its memory.");
  std::vector<LegendItem> legend;
  double top = 1, x0 = 1e300, x1 = 0;
  for (const MemorySeries& one : series_) {
    top = std::max(top, double(one.peak));
    x0 = std::min(x0, double(one.points.front().seen));
    x1 = std::max(x1, double(one.points.back().seen));
  }
  x0 = std::max(0.0, x0 - std::max(4.0, 0.12 * (x1 - x0)));
  x1 = std::max(x1, x0 + 1);
  for (const Layer& layer : layers) {
    bool any = false;
    for (const MemorySeries& one : series_)
      for (const auto& p : one.points) any |= p.bytes.*layer.bytes > 0;
    if (any) legend.push_back({layer.name, QColor::fromRgb(layer.colour), 0});
  }
  legend.push_back({"peak", c.look.ink, 2});
  legend.push_back({"budget asked", c.look.accent, 2});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 4);
  const std::size_t panels = std::min(series_.size(), most_panels);
  const double each = rest.height() / double(panels), title = line_height(c.look.font) + 2;
  for (std::size_t i = 0; i < panels; ++i) {
    const QRectF place(rest.left(), rest.top() + double(i) * each, rest.width(), each);
    const auto& end = series_[i].points.back();
    draw_text(c, QRectF(place.left() + 8, place.top(), place.width() - 8, title),
              QString("%1: peak %2, at the end %3 of %4")
                  .arg(QString::fromStdString(series_[i].name))
                  .arg(QString::fromStdString(bytes_text(double(series_[i].peak))),
                       QString::fromStdString(bytes_text(double(end.stored))),
                       QString::fromStdString(bytes_text(double(end.full)))),
              c.look.font, c.look.ink);
    panel(c, place.adjusted(0, title, 0, -2), series_[i], x0, x1, top, i + 1 == panels);
  }
}

ScenePtr load(const ViewInput& input, const CancelToken&) { return std::make_shared<Memory>(input); }

}  // namespace

namespace rows {
extern const ViewRow memory;
const ViewRow memory{
    .name = "memory",
    .title = "Memory over time",
    .help = "Stored bytes by kind and tier as tokens come. A click moves the step cursor of all views.",
    .place = 50,
    .needs = Needs::jobs,
    .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
