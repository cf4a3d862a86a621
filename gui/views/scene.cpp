#include "gui/views/scene.h"

#include <algorithm>

#include "core/error.h"
#include "core/policy_line.h"

namespace kvgrind::gui {
namespace {

class Words final : public Scene {
 public:
  Words(QString title, QString text) : title_(std::move(title)), text_(std::move(text)) {}
  QString title() const override { return title_; }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override { draw_nothing(c, area, text_); }
  QString alt_text() const override { return title_ + ". " + text_; }

 private:
  QString title_, text_;
};

}  // namespace

ScenePtr words_scene(QString title, QString text) { return std::make_shared<Words>(std::move(title), std::move(text)); }

const ViewRow& view_named(const std::string& name) {
  std::vector<std::string> names;
  for (const ViewRow* row : views()) {
    if (name == row->name) return *row;
    names.emplace_back(row->name);
  }
  const std::string near = nearest_name(name, names);
  std::string all;
  for (const std::string& one : names) all += (all.empty() ? "" : ", ") + one;
  throw Error(Category::usage, {.doing = "choosing a view",
                                .found = "\"" + name + "\"",
                                .expected = "one of " + all,
                                .next = near.empty() ? "" : "perhaps \"" + near + "\""});
}

ScenePtr load_scene(const ViewRow& row, const ViewInput& input, const CancelToken& cancel) {
  if (input.session && row.needs != Needs::rows && !sequence_of(input))  // cut before the first token was safe
    return words_scene(row.title, "This recording holds no sequence: nothing of it was written down yet.");
  if (input.session || row.needs == Needs::rows) return row.load(input, cancel);
  const QString trace = input.rows && !input.rows->empty() && !input.rows->front().trace.empty()
                            ? " " + QString::fromStdString(input.rows->front().trace)
                            : QString();
  return words_scene(row.title, QString("Only results are open, and this view shows the recording itself. Open the "
                                        "trace%1 they were made from to see it; dashboard, Pareto front, budgets and "
                                        "differences need results alone.")
                                    .arg(trace));
}

void paint_scene(Canvas& c, const QSizeF& size, const Scene& scene, const ViewState& state) {
  c.p.fillRect(QRectF(QPointF(), size), c.look.ground);
  const double margin = c.look.paper ? 4 : 10;
  QRectF area(margin, margin, size.width() - 2 * margin, size.height() - 2 * margin);
  if (c.look.title) {
    const QFont bold = c.look.bold(1.12);
    const double height = line_height(bold);
    draw_text(c, QRectF(area.left(), area.top(), area.width(), height),
              c.look.own_title.isEmpty() ? scene.title() : c.look.own_title, bold, c.look.ink);
    area.setTop(area.top() + height + 1);
    if (const QString text = scene.subtitle(); !text.isEmpty()) {
      const double used = draw_paragraph(c, area, text, c.look.small(), c.look.faint);
      area.setTop(area.top() + used);
    }
    area.setTop(area.top() + 6);
  }
  if (area.width() < 40 || area.height() < 40) return;
  scene.paint(c, area, state);
}

}  // namespace kvgrind::gui
