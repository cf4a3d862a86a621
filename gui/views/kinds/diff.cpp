// Policy diff: what the first two policies keep, both, one or neither, and the worst disagreements by attention mass.
// Beside another trace (`--diff`): their attention; of results: their figures.
#include "gui/models/diff.h"

#include <cmath>

#include "gui/views/metric_diff.h"
#include "gui/views/raster.h"
#include "gui/views/trace_diff.h"

namespace kvgrind::gui {
namespace {

constexpr std::size_t most_rows = 60;

QColor agreement_colour(Agreement agreement, const Look& look) {
  switch (agreement) {
    case Agreement::both:
      return look.dark ? QColor(0x6E, 0x70, 0x7A) : QColor(0x9A, 0x9C, 0xA6);
    case Agreement::only_a:
      return QColor(0x00, 0x72, 0xB2);
    case Agreement::only_b:
      return QColor(0xE6, 0x79, 0x1E);
    default:
      return look.dark ? QColor(0x2B, 0x2B, 0x31) : QColor(0xEC, 0xEC, 0xEF);
  }
}

class Diff final : public Scene {
 public:
  Diff(const ViewInput& input, PolicyDiff diff, const CancelToken& cancel) : input_(input), diff_(std::move(diff)) {
    std::vector<std::uint8_t> agreement(std::size_t(diff_.a.groups() * diff_.a.tokens));
    for (std::int64_t g = 0; g < diff_.a.groups(); ++g)
      for (std::int64_t t = 0; t < diff_.a.tokens; ++t)
        agreement[std::size_t(g * diff_.a.tokens + t)] = std::uint8_t(diff_.at(g, t));
    raster_ = CategoryRaster(diff_.a.groups(), diff_.a.tokens, std::move(agreement), cancel);
  }
  QString title() const override { return "Where two policies differ"; }
  QString subtitle() const override {
    return QString("A: %1; B: %2; sequence %3. A drops %4 of a query's mass that B keeps, B drops %5 that A keeps%6.")
        .arg(QString::fromStdString(diff_.a.name), QString::fromStdString(diff_.b.name))
        .arg(input_.at.sequence)
        .arg(QString::fromStdString(percent(diff_.lost_a)), QString::fromStdString(percent(diff_.lost_b)),
             diff_.estimated ? " (masses are estimated from some of the queries)" : "");
  }
  QRectF extent() const override { return QRectF(0, 0, double(std::max<std::int64_t>(1, diff_.a.tokens)), 1); }
  std::string csv(const ViewState&) const override {
    return diff_table(diff_, input_.text ? *input_.text : std::vector<std::string>{}).csv();
  }
  // 0 dropped by both, 1 kept by both, 2 by A only, 3 by B only, 4 not seen yet. [groups, tokens]
  Matrix matrix(const ViewState&) const override {
    Matrix out{.shape = {raster_.rows(), raster_.tokens()}, .data = {}};
    for (std::int64_t g = 0; g < raster_.rows(); ++g)
      for (std::int64_t t = 0; t < raster_.tokens(); ++t) out.data.push_back(float(raster_.at(g, t)));
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;

 private:
  void raster(Canvas& c, const HeatAxes& axes) const;
  void table(Canvas& c, const QRectF& area) const;
  QString token(std::int64_t t) const {
    return input_.text && t < std::int64_t(input_.text->size())
               ? QString::fromStdString(token_label((*input_.text)[std::size_t(t)], 12))
               : QString();
  }
  ViewInput input_;
  PolicyDiff diff_;
  CategoryRaster raster_;  // of Agreement
};

void Diff::raster(Canvas& c, const HeatAxes& axes) const {
  draw_raster(c, axes, raster_, [&](std::uint8_t one) { return agreement_colour(Agreement(one), c.look); });
  draw_axes(c, axes, layer_labels(diff_.a.layers, diff_.a.heads));
  draw_ranges(c, axes, input_, false);
  draw_key_cursor(c, axes, input_.at);
  c.hit(axes.plot, [this, axes](QPointF at) -> std::optional<Hit> {
    const auto group = std::clamp<std::int64_t>(std::int64_t(axes.row(at.y())), 0, diff_.a.groups() - 1);
    const auto key = std::clamp<std::int64_t>(std::int64_t(axes.column(at.x())), 0, diff_.a.tokens - 1);
    const std::int64_t layer = group / diff_.a.heads, head = group % diff_.a.heads;
    return Hit{QString("layer %1, %2, key %3 %4: %5")
                   .arg(layer)
                   .arg(head_name(input_, diff_.a.heads, head))
                   .arg(key)
                   .arg(token(key), QString(agreement_name(diff_.at(group, key)))),
               choose_group(input_, diff_.a.heads, layer, head, key)};
  });
}

void Diff::table(Canvas& c, const QRectF& area) const {
  const QFont small = c.look.small();
  const double height = line_height(small) + 3;
  draw_text(
      c, QRectF(area.left(), area.top(), area.width(), height + 2),
      diff_.estimated ? "Worst disagreements by received mass (estimated)" : "Worst disagreements by received mass",
      c.look.bold(), c.look.ink);
  const double share[] = {0.11, 0.12, 0.17, 0.28, 0.14, 0.18};
  const char* names[] = {"layer", "head", "key", "token", "kept", "mass"};
  double y = area.top() + height + 6;
  for (std::size_t row = 0; row <= diff_.worst.size() && y + height <= area.bottom(); ++row, y += height) {
    double x = area.left();
    for (std::size_t column = 0; column < 6; ++column) {
      QString text = names[column];
      if (row > 0) {
        const Disagreement& one = diff_.worst[row - 1];
        const QString cells[] = {QString::number(one.layer), head_name(input_, diff_.a.heads, one.head),
                                 QString::number(one.token), token(one.token),
                                 one.a_keeps ? "A" : "B",    QString::fromStdString(percent(one.mass))};
        text = cells[column];
      }
      const double width = share[column] * area.width();
      draw_text(c, QRectF(x, y, width - 6, height), text, small,
                row == 0      ? c.look.faint
                : column == 4 ? agreement_colour(text == "A" ? Agreement::only_a : Agreement::only_b, c.look)
                                    .lighter(c.look.dark ? 150 : 100)
                              : c.look.ink);
      x += width;
    }
    if (row == 0) continue;
    const Disagreement one = diff_.worst[row - 1];
    c.hit(QRectF(area.left(), y, area.width(), height), QString("go to layer %1, key %2").arg(one.layer).arg(one.token),
          choose_group(input_, diff_.a.heads, one.layer, one.head, one.token));
  }
}

void Diff::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  std::vector<LegendItem> legend;
  const double all = double(std::max<std::int64_t>(1, diff_.both + diff_.neither + diff_.only_a + diff_.only_b));
  for (const auto& [agreement, n] :
       {std::pair(Agreement::both, diff_.both), std::pair(Agreement::only_a, diff_.only_a),
        std::pair(Agreement::only_b, diff_.only_b), std::pair(Agreement::neither, diff_.neither)})
    legend.push_back(
        {QString("%1 (%2)").arg(agreement_name(agreement), QString::fromStdString(percent(double(n) / all))),
         agreement_colour(agreement, c.look), 0});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 6);
  const double side = std::min(380.0, rest.width() * 0.36);
  HeatAxes axes{.plot = heat_plot_area(c, rest.adjusted(0, 0, -side - 12, 0), 6),
                .x0 = 0,
                .x1 = double(std::max<std::int64_t>(1, diff_.a.tokens)),
                .y0 = 0,
                .y1 = double(std::max<std::int64_t>(1, diff_.a.groups())),
                .x_title = "key position",
                .y_title = "layer and head"};
  std::tie(axes.x0, axes.x1) = shown_keys(state, input_, diff_.a.tokens);
  raster(c, axes);
  table(c, QRectF(rest.right() - side, rest.top(), side, rest.height()));
  c.plot = axes.plot;
  c.shown = QRectF(axes.x0, 0, axes.x1 - axes.x0, 1);
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) {
  if (input.session && input.base) return trace_diff_scene(input, cancel);
  if (input.base_rows) return metric_diff_scene(input);
  std::size_t jobs = 0;
  for (const ShownJob& job : input.jobs) jobs += job.view != nullptr;
  if (jobs < 2 && input.rows && !input.rows->empty() && (!input.session || jobs == 0)) return metric_diff_scene(input);
  if (jobs < 2)
    return words_scene("Where two policies differ",
                       "Two policies are compared here. Add one more, or choose two of those there are.");
  return std::make_shared<Diff>(input, policy_diff(input, most_rows, cancel), cancel);
}

}  // namespace

namespace rows {
extern const ViewRow diff;
const ViewRow diff{
    .name = "diff",
    .title = "Policy diff",
    .help =
        "The first two policies shown, token by token. A click on a disagreement goes there in all views. With "
        "`--diff`, or results alone: the figures of two files or of policies, pair by pair.",
    .place = 80,
    .needs = Needs::rows,
    .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
