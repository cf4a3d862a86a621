#include "gui/views/result_budgets.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gui/models/result_budgets.h"

namespace kvgrind::gui {
namespace {

class Budgets final : public Scene {
 public:
  Budgets(const ViewInput& input, ResultBudgets budgets) : colours_(input.map.colours), budgets_(std::move(budgets)) {}
  QString title() const override { return "Budgets asked, and what was stored"; }
  QString subtitle() const override {
    return "stored bytes as a share of the full cache, mean over jobs; budgets of heads need the trace";
  }
  bool scrolls() const override { return true; }
  std::string csv(const ViewState&) const override { return result_budgets_table(budgets_).csv(); }
  // Stored share. [policies, budgets]; NaN: not run.
  Matrix matrix(const ViewState&) const override {
    Matrix out{.shape = {std::int64_t(budgets_.policies.size()), std::int64_t(budgets_.budgets.size())}, .data = {}};
    if (budgets_.cells.empty()) return {};
    for (const BudgetCell& cell : budgets_.cells)
      out.data.push_back(cell.jobs ? float(cell.stored_frac) : std::numeric_limits<float>::quiet_NaN());
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;

 private:
  int colours_;
  ResultBudgets budgets_;
};

void Budgets::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (budgets_.cells.empty()) return draw_nothing(c, area, "No result is there.");
  const QFont small = c.look.small();
  const std::size_t columns = budgets_.budgets.size();
  double name = 0, high = 0;
  for (const std::string& policy : budgets_.policies)
    name = std::max(name, text_width(small, QString::fromStdString(policy)));
  for (const BudgetCell& cell : budgets_.cells) high = std::max(high, cell.stored_frac);
  name = std::min(name + 10, area.width() * 0.4);
  const double text = line_height(small), header = 2 * text + 8;
  const QRectF plot = area.adjusted(name, header, -colour_bar_width, -text - 4);
  const double width = plot.width() / double(columns);
  const double height = std::clamp(plot.height() / double(budgets_.policies.size()), text + 6, 2.4 * text);
  const auto lines = std::max<std::size_t>(1, std::size_t(plot.height() / height));
  const std::size_t last = budgets_.policies.size() > lines ? budgets_.policies.size() - lines : 0;
  const std::size_t top = std::min(last, std::size_t(std::max(0.0, state.window.isEmpty() ? 0 : state.window.top())));
  draw_text(c, QRectF(plot.left(), area.top(), plot.width(), text), "budget asked: kept", small, c.look.faint,
            Qt::AlignCenter);
  for (std::size_t b = 0; b < columns; ++b)
    draw_text(c, QRectF(plot.left() + double(b) * width, area.top() + text + 3, width - 4, text),
              QString::fromStdString(budgets_.budgets[b]), small, c.look.ink, Qt::AlignCenter);
  const ColourTable& table = colour_table(colours_);
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);
  double y = plot.top();
  for (std::size_t p = top; p < budgets_.policies.size() && p < top + lines; ++p, y += height) {
    draw_text(c, QRectF(area.left(), y, name - 8, height), QString::fromStdString(budgets_.policies[p]), small,
              c.look.ink);
    for (std::size_t b = 0; b < columns; ++b) {
      const BudgetCell& cell = budgets_.at(p, b);
      const QRectF place(plot.left() + double(b) * width, y, width, height);
      if (cell.jobs == 0) {
        draw_hatched(c, place);
        continue;
      }
      const QColor colour = QColor::fromRgb(table[shade(float(cell.stored_frac), 0.0f, float(high), false)]);
      const QString words = QString::fromStdString(percent(cell.stored_frac));
      c.p.fillRect(place, colour);
      if (text_width(small, words) < width - 4)
        draw_text(c, place, words, small, qGray(colour.rgb()) > 125 ? Qt::black : Qt::white, Qt::AlignCenter);
      c.hit(place, QString("%1, asked %2: stores %3 of the bytes, keeps %4 of the tokens; %5 to %6 of them in a layer "
                           "and head; %7 jobs")
                       .arg(QString::fromStdString(budgets_.policies[p]), QString::fromStdString(budgets_.budgets[b]),
                            words, QString::fromStdString(percent(cell.kept_frac)))
                       .arg(cell.least)
                       .arg(cell.most)
                       .arg(cell.jobs));
    }
  }
  c.p.restore();
  draw_colour_bar(c, QRectF(plot.left(), plot.top(), plot.width(), y - plot.top()), table, 0, high, false, "stored");
  if (last > 0)
    draw_text(c, QRectF(area.left(), area.bottom() - text, area.width(), text),
              QString("policies %1 to %2 of %3")
                  .arg(top + 1)
                  .arg(std::min(top + lines, budgets_.policies.size()))
                  .arg(budgets_.policies.size()),
              small, c.look.faint);
  c.shown = QRectF(0, double(top), 1, double(lines));
}

}  // namespace

ScenePtr result_budgets_scene(const ViewInput& input) {
  return std::make_shared<Budgets>(
      input, input.rows ? result_budgets(*input.rows) : ResultBudgets{.policies = {}, .budgets = {}, .cells = {}});
}

}  // namespace kvgrind::gui
