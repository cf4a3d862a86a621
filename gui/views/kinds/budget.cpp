// Budget heatmap: tokens that each layer and head was left with.
#include <algorithm>
#include <limits>

#include "gui/models/kept.h"
#include "gui/views/raster.h"
#include "gui/views/result_budgets.h"

namespace kvgrind::gui {
namespace {

constexpr double number_pixels = 28;

class Budget final : public Scene {
 public:
  explicit Budget(const ViewInput& input) : input_(input) {
    for (const ShownJob& job : input.jobs) {
      BudgetGrid grid = budget_grid(job);
      if (!grid.slots.empty()) grids_.push_back(std::move(grid));
    }
    if (input.map.difference && grids_.size() >= 2 && grids_[0].slots.size() == grids_[1].slots.size()) {
      BudgetGrid difference = grids_[1];
      difference.name = grids_[1].name + " minus " + grids_[0].name;
      for (std::size_t i = 0; i < difference.slots.size(); ++i) difference.slots[i] -= grids_[0].slots[i];
      grids_ = {difference};
      difference_ = true;
    }
  }
  QString title() const override { return difference_ ? "Budgets per head, difference" : "Budgets per head"; }
  QString subtitle() const override {
    return QString("tokens kept just after compression, sequence %1; layers down, %2 heads across")
        .arg(input_.at.sequence)
        .arg(grids_.empty() || grids_[0].heads == input_.session->run().card().kv_heads ? "KV" : "query");
  }
  std::string csv(const ViewState&) const override { return budget_table(grids_).csv(); }
  // Tokens. [policies, L, heads]; NaN where a policy's cache has fewer heads.
  Matrix matrix(const ViewState&) const override {
    std::int64_t layers = 0, heads = 0;
    for (const BudgetGrid& grid : grids_) {
      layers = std::max(layers, grid.layers);
      heads = std::max(heads, grid.heads);
    }
    if (layers * heads == 0) return {};
    Matrix out{.shape = {std::int64_t(grids_.size()), layers, heads}, .data = {}};
    for (const BudgetGrid& grid : grids_)
      for (std::int64_t l = 0; l < layers; ++l)
        for (std::int64_t h = 0; h < heads; ++h)
          out.data.push_back(l < grid.layers && h < grid.heads ? float(grid.at(l, h))
                                                               : std::numeric_limits<float>::quiet_NaN());
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  void grid(Canvas& c, const BudgetGrid& grid, const HeatAxes& axes, double low, double high) const;
  ViewInput input_;
  std::vector<BudgetGrid> grids_;
  bool difference_ = false;
};

void Budget::grid(Canvas& c, const BudgetGrid& grid, const HeatAxes& axes, double low, double high) const {
  const ColourTable& table = difference_ ? diverging_table() : colour_table(input_.map.colours);
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);
  const double width = axes.plot.width() / double(grid.heads), height = axes.plot.height() / double(grid.layers);
  for (std::int64_t l = 0; l < grid.layers; ++l)
    for (std::int64_t h = 0; h < grid.heads; ++h) {
      const QRectF cell(axes.plot.left() + double(h) * width, axes.plot.top() + double(l) * height, width, height);
      const double t = high > low ? (double(grid.at(l, h)) - low) / (high - low) : 0.5;
      const QColor colour = QColor::fromRgb(table[std::size_t(std::clamp(t, 0.0, 1.0) * 255)]);
      c.p.fillRect(cell, colour);
      const QString number = QString::number(grid.at(l, h));
      if (width >= number_pixels && height >= line_height(c.look.small()) && text_width(c.look.small(), number) < width)
        draw_text(c, cell, number, c.look.small(), qGray(colour.rgb()) > 125 ? Qt::black : Qt::white, Qt::AlignCenter);
      c.hit(cell,
            QString("%1: layer %2, %3: %4 of %5 tokens")
                .arg(QString::fromStdString(grid.name))
                .arg(l)
                .arg(head_name(input_, grid.heads, h))
                .arg(number)
                .arg(grid.seen),
            choose_group(input_, grid.heads, l, h));
    }
  c.p.restore();
  AxisLabels labels = layer_labels(grid.layers, 1);
  for (std::int64_t h = 0; h < grid.heads; ++h)
    labels.x.emplace_back(double(h) + 0.5, head_name(input_, grid.heads, h));
  draw_axes(c, axes, labels);
  if (input_.at.layer < grid.layers) {
    const std::int64_t h = input_.at.query_head * grid.heads / input_.session->run().card().query_heads;
    c.p.setPen(QPen(c.look.accent, 2));
    c.p.setBrush(Qt::NoBrush);
    c.p.drawRect(QRectF(axes.plot.left() + double(h) * width, axes.plot.top() + double(input_.at.layer) * height, width,
                        height));
  }
}

void Budget::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (grids_.empty()) return draw_nothing(c, area, "No policy is shown. Add one to see its budgets.");
  double low = 0, high = 1;
  for (const BudgetGrid& grid : grids_)
    for (const std::int32_t n : grid.slots) {
      high = std::max(high, std::abs(double(n)));
      if (difference_) low = std::min(low, -std::abs(double(n)));
    }
  if (difference_) low = -(high = std::max(high, -low));
  const std::size_t across = grids_.size() <= 3 ? grids_.size() : (grids_.size() + 1) / 2;
  const std::size_t down = (grids_.size() + across - 1) / across;
  const double width = (area.width() - colour_bar_width) / double(across), height = area.height() / double(down);
  QRectF last;
  for (std::size_t i = 0; i < grids_.size(); ++i) {
    const QRectF place(area.left() + double(i % across) * width, area.top() + double(i / across) * height, width,
                       height);
    const double title = line_height(c.look.font) + 4;
    HeatAxes axes{.plot = heat_plot_area(c, place.adjusted(0, title, 0, 0), 12),
                  .x0 = 0,
                  .x1 = double(grids_[i].heads),
                  .y0 = 0,
                  .y1 = double(grids_[i].layers),
                  .x_title = "head",
                  .y_title = ""};
    draw_text(c, QRectF(axes.plot.left(), place.top(), axes.plot.width(), title),
              QString::fromStdString(grids_[i].name), c.look.font, c.look.ink);
    grid(c, grids_[i], axes, low, high);
    if (i < across) last = axes.plot;
  }
  draw_colour_bar(c, last, difference_ ? diverging_table() : colour_table(input_.map.colours), low, high, false,
                  "tokens");
}

ScenePtr load(const ViewInput& input, const CancelToken&) {
  if (input.rows && !input.rows->empty() && input.jobs.empty()) return result_budgets_scene(input);
  if (!input.session) return words_scene("Budgets", "No result is there.");
  return std::make_shared<Budget>(input);
}

}  // namespace

namespace rows {
extern const ViewRow budget;
const ViewRow budget{.name = "budget",
                     .title = "Budget heatmap",
                     .help =
                         "Tokens each layer and head was left with. D shows the second policy minus the first. Of "
                         "results alone: what every policy stored of every budget asked.",
                     .place = 70,
                     .needs = Needs::rows,
                     .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
