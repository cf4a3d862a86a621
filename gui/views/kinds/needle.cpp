// Needle tracker: attention on one span by layer and query, and the share of it that each policy still holds.
#include "gui/models/needle.h"

#include <algorithm>
#include <cmath>

#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

constexpr std::int64_t most_queries = 400;
constexpr double low_mass = 1e-3;
const ColourTable& kept_colours(bool dark) {
  static const ColourTable light = colour_table(2);
  static const ColourTable night = [] {
    ColourTable out = colour_table(2);
    std::reverse(out.begin(), out.end());
    return out;
  }();
  return dark ? night : light;
}

class Needle final : public Scene {
 public:
  Needle(const ViewInput& input, NeedleData data) : input_(input), data_(std::move(data)) {
    for (std::int64_t t = data_.span.begin; input.text && t < data_.span.end && t < std::int64_t(input.text->size());
         ++t)
      words_ += QString::fromStdString(token_label((*input.text)[std::size_t(t)], 40));
    words_.replace(QString("␣"), QString(" "));
  }
  QString title() const override { return QString("Tracking the %1").arg(QString::fromStdString(data_.span.kind)); }
  QString subtitle() const override {
    return QString("positions %1:%2 of sequence %3, “%4”")
        .arg(data_.span.begin)
        .arg(data_.span.end)
        .arg(input_.at.sequence)
        .arg(words_.trimmed());
  }
  std::string csv() const override { return needle_table(data_).csv(); }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  void panel(Canvas& c, const QRectF& area, const QString& title, const QString& verdict, const NeedleJob* job,
             bool last) const;
  ViewInput input_;
  NeedleData data_;
  QString words_;
};

void Needle::panel(Canvas& c, const QRectF& area, const QString& title, const QString& verdict, const NeedleJob* job,
                   bool last) const {
  const double height = line_height(c.look.font) + 2;
  const double name_width = std::min(area.width() * 0.45, text_width(c.look.bold(), title) + 10);
  draw_text(c, QRectF(area.left(), area.top(), name_width, height), title, c.look.bold(),
            job ? QColor::fromRgb(job_colour(job->colour)) : c.look.ink);
  draw_text(c, QRectF(area.left() + name_width, area.top(), area.width() - name_width, height), verdict, c.look.small(),
            c.look.faint);
  const std::int64_t layers = data_.mass.mass.extent(0);
  const auto columns = std::int64_t(data_.mass.query.size());
  const std::int64_t first = data_.mass.query.front(), end = data_.mass.query.back() + 1;
  QRectF inner = area.adjusted(0, height, 0, 0);
  HeatAxes axes{.plot = heat_plot_area(c, inner, colour_bar_width),
                .x0 = double(first),
                .x1 = double(end),
                .y0 = 0,
                .y1 = double(layers),
                .x_title = last ? "query position" : "",
                .y_title = ""};
  if (!last) axes.plot.setBottom(inner.bottom() - 8);
  c.p.fillRect(axes.plot, c.look.panel);
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);  // no seams between cells
  const ColourTable& table = job ? kept_colours(c.look.dark) : colour_table(input_.map.colours);
  for (std::int64_t i = 0; i < columns; ++i) {
    const std::int64_t query = data_.mass.query[std::size_t(i)];
    const double right = i + 1 < columns ? double(data_.mass.query[std::size_t(i) + 1]) : double(end);
    const std::vector<float>* kept = nullptr;
    if (job)
      for (std::size_t s = 0; s < job->seen.size(); ++s)
        if (job->seen[s] <= query + 1) kept = &job->kept[s];
    for (std::int64_t l = 0; l < layers; ++l) {
      const float value = job ? (kept ? (*kept)[std::size_t(l)] : 1.0f) : data_.mass.mass(l, i);
      const std::uint8_t code = job ? shade(value, 0.0f, 1.0f, false) : shade(value, float(low_mass), 1.0f, true);
      const QRectF cell(QPointF(axes.x(double(query)), axes.y(double(l))),
                        QPointF(axes.x(right), axes.y(double(l) + 1)));
      c.p.fillRect(cell.intersected(axes.plot), QColor::fromRgb(std::isnan(value) ? nan_colour : table[code]));
    }
  }
  c.p.restore();
  AxisLabels labels;
  for (std::int64_t l = 0; l < layers; ++l) labels.y.emplace_back(double(l) + 0.5, QString("L%1").arg(l));
  if (!last) labels.x.emplace_back(-1.0, QString());
  draw_axes(c, axes, labels);
  if (job && job->first_loss >= first && job->first_loss <= end) {
    const double x = axes.x(double(job->first_loss));
    c.p.setPen(QPen(c.look.accent, 1.5, Qt::DashLine));
    c.p.drawLine(QPointF(x, axes.plot.top()), QPointF(x, axes.plot.bottom()));
  }
  draw_colour_bar(c, axes.plot, table, job ? 0 : low_mass, 1, !job, job ? "kept" : "mass");
  const QString name = title;
  c.hit(axes.plot, [this, axes, job, name, layers](QPointF at) -> std::optional<Hit> {
    const auto layer = std::clamp<std::int64_t>(std::int64_t(axes.row(at.y())), 0, layers - 1);
    const auto query = std::int64_t(axes.column(at.x()));
    auto it = std::upper_bound(data_.mass.query.begin(), data_.mass.query.end(), query);
    if (it != data_.mass.query.begin()) --it;
    const auto i = it - data_.mass.query.begin();
    const std::int64_t found = *it, step = job && job->first_loss >= 0 ? job->first_loss : found + 1;
    return Hit{job ? QString("%1, layer %2, at query %3").arg(name).arg(layer).arg(found)
                   : QString("layer %1, query %2: %3 of its attention on the span")
                         .arg(layer)
                         .arg(found)
                         .arg(QString::fromStdString(percent(double(data_.mass.mass(layer, i))))),
               [layer, found, step](Selection& s) {
                 s.layer = layer;
                 s.query_at = found;
                 s.step = step;
               }};
  });
}

void Needle::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (data_.mass.query.empty()) return draw_nothing(c, area, "No query after this span was recorded.");
  const std::size_t panels = 1 + std::min<std::size_t>(data_.jobs.size(), 6);
  const double extra = 2 * line_height(c.look.small()) + 10;  // for the numbers of the last
  const double each = (area.height() - extra) / double(panels);
  panel(c, QRectF(area.left(), area.top(), area.width(), each + (panels == 1 ? extra : 0)), "Attention on it",
        "largest of the layer's query heads", nullptr, panels == 1);
  for (std::size_t i = 1; i < panels; ++i)
    panel(c, QRectF(area.left(), area.top() + double(i) * each, area.width(), each + (i + 1 == panels ? extra : 0)),
          QString::fromStdString(data_.jobs[i - 1].name), QString::fromStdString(data_.jobs[i - 1].verdict),
          &data_.jobs[i - 1], i + 1 == panels);
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) {
  NeedleData data = needle_data(input, most_queries, cancel);
  if (!data.found) return words_scene("Needle tracker", "This sequence has no needle or other span to follow.");
  return std::make_shared<Needle>(input, std::move(data));
}

}  // namespace

namespace rows {
extern const ViewRow needle;
const ViewRow needle{.name = "needle",
                     .title = "Needle tracker",
                     .help = "Who looks at the needle, and which policy lost it when. A click goes to the first loss.",
                     .place = 100,
                     .needs = Needs::trace,
                     .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
