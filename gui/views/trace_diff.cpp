#include "gui/views/trace_diff.h"

#include <algorithm>
#include <cmath>

#include "gui/models/trace_diff.h"
#include "gui/views/metric_diff.h"
#include "gui/views/raster.h"

namespace kvgrind::gui {
namespace {

struct Panel {
  QString title;
  bool signed_values;
  double (*value)(const HeadDiff&);
};
const Panel panels[] = {
    {"maps apart, decades", false, [](const HeadDiff& one) { return one.decades; }},
    {"entropy, B − A bits", true, [](const HeadDiff& one) { return one.b.entropy_bits - one.a.entropy_bits; }},
    {"weight on the first 4 tokens, B − A", true,
     [](const HeadDiff& one) { return one.b.sink_mass - one.a.sink_mass; }},
    {"weight on the last 64, B − A", true, [](const HeadDiff& one) { return one.b.local_mass - one.a.local_mass; }}};

class TwoTraces final : public Scene {
 public:
  TwoTraces(const ViewInput& input, TraceDiff diff) : input_(input), diff_(std::move(diff)) {
    if (input.base_rows && !input.base_rows->empty()) figures_ = metric_diff_scene(input);
  }
  QString title() const override { return "Where two recordings differ"; }
  QString subtitle() const override {
    QString text = QString("A: %1; B: %2; sequence %3")
                       .arg(QString::fromStdString(diff_.a), QString::fromStdString(diff_.b))
                       .arg(diff_.sequence);
    if (diff_.tokens_a != diff_.tokens_b)
      text += QString("; %1 and %2 tokens, so maps are not held against each other")
                  .arg(diff_.tokens_a)
                  .arg(diff_.tokens_b);
    text += diff_.first_other_token < 0 ? QString("; equal texts")
                                        : QString("; the texts part at token %1").arg(diff_.first_other_token);
    for (const std::string& one : diff_.other_models) text += "; " + QString::fromStdString(one);
    return text;
  }
  std::string csv(const ViewState&) const override { return trace_diff_table(diff_).csv(); }
  // As on the picture. [4, L, Hq]
  Matrix matrix(const ViewState&) const override {
    Matrix out{.shape = {4, diff_.layers, diff_.heads}, .data = {}};
    for (const Panel& panel : panels)
      for (const HeadDiff& one : diff_.of) out.data.push_back(float(panel.value(one)));
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  void draw(Canvas& c, const QRectF& area, const Panel& panel) const;
  ViewInput input_;
  TraceDiff diff_;
  ScenePtr figures_;  // what the policies lose on either, once they ran on both
};

void TwoTraces::draw(Canvas& c, const QRectF& area, const Panel& panel) const {
  const double title = line_height(c.look.font) + 4;
  HeatAxes axes = panel_axes(c, area, title, colour_bar_width, true, "query head");
  axes.x1 = double(diff_.heads);
  axes.y1 = double(diff_.layers);
  draw_text(c, QRectF(axes.plot.left(), area.top(), axes.plot.width(), title), panel.title, c.look.font, c.look.ink);
  double high = 0;
  for (const HeadDiff& one : diff_.of)
    if (std::isfinite(panel.value(one))) high = std::max(high, std::abs(panel.value(one)));
  if (high < 1e-6) high = 1;  // nothing to tell apart
  const double low = panel.signed_values ? -high : 0;
  const ColourTable& table = panel.signed_values ? diverging_table() : colour_table(input_.map.colours);
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);
  for (const HeadDiff& one : diff_.of) {
    const QRectF cell(QPointF(axes.x(double(one.query_head)), axes.y(double(one.layer))),
                      QPointF(axes.x(double(one.query_head) + 1), axes.y(double(one.layer) + 1)));
    const double value = panel.value(one);
    if (std::isnan(value))
      draw_hatched(c, cell);
    else
      c.p.fillRect(cell, QColor::fromRgb(table[std::size_t(std::clamp((value - low) / (high - low), 0.0, 1.0) * 255)]));
    c.hit(cell,
          QString("layer %1, q%2: %3 %4; A is %5, B is %6")
              .arg(one.layer)
              .arg(one.query_head)
              .arg(panel.title, QString::fromStdString(short_number(value)), QString::fromStdString(one.a.kind),
                   QString::fromStdString(one.b.kind)),
          choose_group(input_, diff_.heads, one.layer, one.query_head));
  }
  c.p.restore();
  AxisLabels labels = layer_labels(diff_.layers, 1);
  for (std::int64_t h = 0; h < diff_.heads; ++h) labels.x.emplace_back(double(h) + 0.5, QString("q%1").arg(h));
  draw_axes(c, axes, labels);
  draw_colour_bar(c, axes.plot, table, low, high, false, "");
  c.p.setPen(QPen(c.look.accent, 2));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(QRectF(QPointF(axes.x(double(input_.at.query_head)), axes.y(double(input_.at.layer))),
                      QPointF(axes.x(double(input_.at.query_head) + 1), axes.y(double(input_.at.layer) + 1))));
}

void TwoTraces::paint(Canvas& c, const QRectF& whole, const ViewState&) const {
  QRectF area = whole;
  if (figures_ && whole.height() > 260) {
    const double lines = double(std::min<std::size_t>(8, input_.base_rows->size() + 3)) + 3;
    area.setHeight(whole.height() - std::min(0.45 * whole.height(), lines * (line_height(c.look.small()) + 4)));
    QRectF below(whole.left(), area.bottom() + 8, whole.width(), whole.bottom() - area.bottom() - 8);
    const double title = line_height(c.look.bold()) + 2;
    draw_text(c, QRectF(below.left(), below.top(), below.width(), title), figures_->title() + ": policies on both",
              c.look.bold(), c.look.ink);
    below.setTop(below.top() + title);
    below.setTop(below.top() + draw_paragraph(c, below, figures_->subtitle(), c.look.small(), c.look.faint) + 2);
    figures_->paint(c, below, {});
  }
  const double width = area.width() / 2, height = area.height() / 2;
  for (int i = 0; i < 4; ++i)
    draw(c, QRectF(area.left() + (i % 2) * width, area.top() + (i / 2) * height, width - 6, height - 2), panels[i]);
}

}  // namespace

ScenePtr trace_diff_scene(const ViewInput& input, const CancelToken& cancel) {
  return std::make_shared<TwoTraces>(input, trace_diff(input, cancel));
}

}  // namespace kvgrind::gui
