#include "gui/views/metric_diff.h"

#include <algorithm>
#include <cmath>

#include "gui/models/metric_diff.h"
#include "gui/views/pareto_plot.h"

namespace kvgrind::gui {
namespace {

const QColor better(0x00, 0x72, 0xB2), worse(0xD5, 0x5E, 0x00);

class Differences final : public Scene {
 public:
  explicit Differences(MetricDiff diff) : diff_(std::move(diff)) {
    for (const MetricDiffRow& row : diff_.rows)
      for (const double value : {row.delta.value, row.delta.lo, row.delta.hi})
        if (std::isfinite(value)) reach_ = std::max(reach_, std::abs(value));
  }
  QString title() const override { return QString("Difference in %1").arg(axis_words(diff_.metric)); }
  QString subtitle() const override {
    QString text = QString("A: %1; B: %2. B − A over equal prompts, bars are 95 % bootstrap intervals; %3 is better")
                       .arg(QString::fromStdString(diff_.a), QString::fromStdString(diff_.b),
                            diff_.higher_is_better ? "more" : "less");
    if (diff_.paired + diff_.only_a + diff_.only_b > 0)
      text += QString(". %1 jobs in both, %2 only in A, %3 only in B")
                  .arg(diff_.paired)
                  .arg(diff_.only_a)
                  .arg(diff_.only_b);
    return text;
  }
  bool scrolls() const override { return true; }
  std::string csv(const ViewState&) const override { return metric_diff_table(diff_).csv(); }
  // a, b, difference, low, high of every line. [lines, 5]
  Matrix matrix(const ViewState&) const override {
    if (diff_.rows.empty()) return {};
    Matrix out{.shape = {std::int64_t(diff_.rows.size()), 5}, .data = {}};
    for (const MetricDiffRow& row : diff_.rows)
      for (const double value : {row.a.value, row.b.value, row.delta.value, row.delta.lo, row.delta.hi})
        out.data.push_back(float(value));
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;

 private:
  // What can be said: the interval lies on one side of zero. No interval (one prompt): undecided.
  QColor colour(const MetricDiffRow& row, const Look& look) const {
    if (!(row.delta.lo > 0) && !(row.delta.hi < 0)) return look.faint;
    return (row.delta.value > 0) == diff_.higher_is_better ? better : worse;
  }
  MetricDiff diff_;
  double reach_ = 1e-12;  // of the scale, to both sides of zero
};

void Differences::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (diff_.rows.empty())
    return draw_nothing(c, area, "Nothing to pair: the two sides share no job (policy, budget, protocol, prompt).");
  const QFont small = c.look.small();
  QRectF rest = area;
  rest.setTop(rest.top() +
              draw_legend(c, rest,
                          {{"B is better", better, 0},
                           {"B is worse", worse, 0},
                           {"not decided (the interval spans zero, or one prompt)", c.look.faint, 0}}) +
              4);
  const double height = line_height(small) + 4;
  double label = text_width(small, "policy"), budget = text_width(small, "budget");
  for (const MetricDiffRow& row : diff_.rows) {
    label = std::max(label, text_width(small, QString::fromStdString(row.policy)));
    budget = std::max(budget, text_width(small, QString::fromStdString(row.budget + " " + row.protocol)));
  }
  label = std::min(label + 10, rest.width() * 0.34);
  budget = std::min(budget + 12, rest.width() * 0.2);
  const double value = text_width(small, "-0.00000 ") + 6;
  const double x_budget = rest.left() + label, x_a = x_budget + budget, x_b = x_a + value, x_delta = x_b + value,
               x_bar = x_delta + value + 8;
  const double width = std::max(30.0, rest.right() - x_bar - 4), zero = x_bar + width / 2;
  const auto x_of = [&](double delta) { return zero + std::clamp(delta / reach_, -1.0, 1.0) * (width / 2 - 6); };
  const auto cell = [&](double x, double y, double room, const QString& text, const QColor& ink, bool right) {
    draw_text(c, QRectF(x, y, room - 6, height), text, small, ink,
              (right ? Qt::AlignRight : Qt::AlignLeft) | Qt::AlignVCenter);
  };
  cell(rest.left(), rest.top(), label, "policy", c.look.faint, false);
  cell(x_budget, rest.top(), budget, "budget", c.look.faint, false);
  cell(x_a, rest.top(), value, "A", c.look.faint, true);
  cell(x_b, rest.top(), value, "B", c.look.faint, true);
  cell(x_delta, rest.top(), value, "B − A", c.look.faint, true);
  const auto lines = std::max<std::size_t>(1, std::size_t((rest.height() - 2 * height) / height));
  const std::size_t last = diff_.rows.size() > lines ? diff_.rows.size() - lines : 0;
  const std::size_t top = std::min(last, std::size_t(std::max(0.0, state.window.isEmpty() ? 0 : state.window.top())));
  double y = rest.top() + height;
  const double first = y;
  for (std::size_t i = top; i < diff_.rows.size() && i < top + lines; ++i, y += height) {
    const MetricDiffRow& row = diff_.rows[i];
    const QColor ink = colour(row, c.look);
    const auto text = [](double v) { return QString::fromStdString(short_number(v)); };
    cell(rest.left(), y, label, QString::fromStdString(row.policy), c.look.ink, false);
    cell(x_budget, y, budget, QString::fromStdString(row.budget + " " + row.protocol), c.look.faint, false);
    cell(x_a, y, value, text(row.a.value), c.look.ink, true);
    cell(x_b, y, value, text(row.b.value), c.look.ink, true);
    cell(x_delta, y, value, text(row.delta.value), c.look.ink, true);
    const double middle = y + height / 2;
    c.p.setPen(QPen(ink, 1.6));
    if (std::isfinite(row.delta.lo) && std::isfinite(row.delta.hi))
      c.p.drawLine(QPointF(x_of(row.delta.lo), middle), QPointF(x_of(row.delta.hi), middle));
    c.p.setBrush(ink == c.look.faint ? QBrush(c.look.ground) : QBrush(ink));  // open: not decided
    c.p.drawEllipse(QPointF(x_of(row.delta.value), middle), 3.6, 3.6);
    c.hit(QRectF(rest.left(), y, rest.width(), height),
          QString("%1 at %2, %3: A %4, B %5, difference %6 [%7, %8] over %9 prompts")
              .arg(QString::fromStdString(row.policy), QString::fromStdString(row.budget),
                   QString::fromStdString(row.protocol), text(row.a.value), text(row.b.value), text(row.delta.value),
                   text(row.delta.lo), text(row.delta.hi))
              .arg(row.delta.n));
  }
  c.p.setPen(QPen(c.look.faint, 1, Qt::DashLine));
  c.p.drawLine(QPointF(zero, first), QPointF(zero, y));
  const QRectF scale(x_bar, y + 1, width, height);
  const auto number = [&](double tick, Qt::AlignmentFlag side) {
    draw_text(c, scale, QString::fromStdString(short_number(tick)), small, c.look.faint, side | Qt::AlignVCenter);
  };
  number(-reach_, Qt::AlignLeft);
  number(0, Qt::AlignHCenter);
  number(reach_, Qt::AlignRight);
  if (diff_.rows.size() > lines)
    cell(rest.left(), y + 1, label + budget,
         QString("lines %1 to %2 of %3")
             .arg(top + 1)
             .arg(std::min(top + lines, diff_.rows.size()))
             .arg(diff_.rows.size()),
         c.look.faint, false);
  c.shown = QRectF(0, double(top), 1, double(lines));
}

}  // namespace

ScenePtr metric_diff_scene(const ViewInput& input) {
  static const std::vector<traces::ResultRow> none;
  const auto& rows = input.rows ? *input.rows : none;
  if (input.base_rows)
    return std::make_shared<Differences>(metric_diff(*input.base_rows, rows, input.results_y, input.base_name,
                                                     input.base ? "the trace open here" : "the results open here"));
  MetricDiff diff = metric_diff_to_best(rows, input.results_y);
  if (diff.rows.empty())
    return words_scene("Differences of figures", "Fewer than two policies are ranked in these results.");
  return std::make_shared<Differences>(std::move(diff));
}

}  // namespace kvgrind::gui
