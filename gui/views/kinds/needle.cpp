// Needle tracker: attention on one span by layer and query, and the share of it that each policy still holds.
#include "gui/models/needle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gui/views/raster.h"

namespace kvgrind::gui {
namespace {

constexpr std::int64_t most_queries = 400;
constexpr double low_mass = 1e-3;
// From the ground to the policy's own colour, held back a little: most of the area is what was not lost yet.
ColourTable kept_colours(const Look& look, std::size_t colour) {
  const QColor none = look.panel, all = QColor::fromRgb(job_colour(colour));
  ColourTable out{};
  for (int i = 0; i < 256; ++i) {
    const auto mix = [&](int from, int to) { return from + (to - from) * i * 7 / (255 * 10); };
    out[std::size_t(i)] =
        qRgb(mix(none.red(), all.red()), mix(none.green(), all.green()), mix(none.blue(), all.blue()));
  }
  return out;
}

class Needle final : public Scene {
 public:
  Needle(const ViewInput& input, NeedleData data) : input_(input), data_(std::move(data)) {
    for (std::int64_t t = data_.span.begin; input.text && t < data_.span.end && t < std::int64_t(input.text->size());
         ++t)
      words_ += QString::fromStdString(token_label((*input.text)[std::size_t(t)], 40));
    words_.replace(QString("␣"), QString(" "));
  }
  QString title() const override {
    const QString kind = QString::fromStdString(data_.span.kind);
    if (data_.all.size() < 2) return "Tracking the " + kind;
    return QString("Tracking %1 %2 of %3").arg(kind).arg(data_.chosen + 1).arg(data_.all.size());
  }
  QString subtitle() const override {
    return QString("positions %1:%2 of sequence %3, “%4”")
        .arg(data_.span.begin)
        .arg(data_.span.end)
        .arg(input_.at.sequence)
        .arg(words_.trimmed());
  }
  std::string csv(const ViewState&) const override { return needle_table(data_).csv(); }
  // Attention on the span, largest of a layer's heads. [L, queries]
  Matrix matrix(const ViewState&) const override {
    return data_.mass.query.empty() ? Matrix() : matrix_of(data_.mass.mass);
  }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;
  QRectF extent() const override {
    if (data_.mass.query.empty()) return {};
    const double first = double(data_.mass.query.front());
    return QRectF(first, 0, double(data_.mass.query.back()) + 1 - first, 1);
  }
  bool keys_across() const override { return false; }
  // Left and right go from span to span.
  bool move(int right, int, Selection& s) const override {
    if (right == 0 || data_.all.size() < 2) return false;
    const std::int64_t last = std::int64_t(data_.all.size()) - 1;
    s.key_at = data_.all[std::size_t(std::clamp<std::int64_t>(std::int64_t(data_.chosen) + right, 0, last))].span.begin;
    return true;
  }

 private:
  double lanes(Canvas& c, const QRectF& area) const;
  // `keys`: the queries shown, across.
  void panel(Canvas& c, const QRectF& area, const QRectF& keys, const QString& title, const QString& verdict,
             const NeedleJob* job, bool last) const;
  ViewInput input_;
  NeedleData data_;
  QString words_;
};

void Needle::panel(Canvas& c, const QRectF& area, const QRectF& keys, const QString& title, const QString& verdict,
                   const NeedleJob* job, bool last) const {
  const double height = line_height(c.look.font) + 2;
  const double name_width = std::min(area.width() * 0.45, text_width(c.look.bold(), title) + 10);
  draw_text(c, QRectF(area.left(), area.top(), name_width, height), title, c.look.bold(),
            job ? job_ink(c.look, job->colour) : c.look.ink);
  draw_text(c, QRectF(area.left() + name_width, area.top(), area.width() - name_width, height), verdict, c.look.small(),
            c.look.faint);
  const std::int64_t layers = data_.mass.mass.extent(0);
  const auto columns = std::int64_t(data_.mass.query.size());
  const std::int64_t end = data_.mass.query.back() + 1;
  HeatAxes axes = panel_axes(c, area, height, colour_bar_width, last, "query position");
  axes.x0 = keys.left();
  axes.x1 = keys.right();
  axes.y1 = double(layers);
  c.plot = c.plot.isEmpty() ? axes.plot : c.plot.united(axes.plot);
  c.p.fillRect(axes.plot, c.look.panel);
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);  // no seams between cells
  const ColourTable table = job ? kept_colours(c.look, job->colour) : colour_table(input_.map.colours);
  for (std::int64_t i = 0; i < columns; ++i) {
    const std::int64_t query = data_.mass.query[std::size_t(i)];
    const double right = i + 1 < columns ? double(data_.mass.query[std::size_t(i) + 1]) : double(end);
    if (right <= axes.x0 || double(query) >= axes.x1) continue;
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
  AxisLabels labels = layer_labels(layers, 1);
  if (!last) labels.x.emplace_back(-1.0, QString());
  draw_axes(c, axes, labels);
  if (job && double(job->first_loss) >= axes.x0 && double(job->first_loss) <= axes.x1) {
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

// All spans of the kind side by side, a lane a policy, shaded by what it still holds: of many needles the lost ones
// stand out. Returns the height used.
double Needle::lanes(Canvas& c, const QRectF& area) const {
  const QFont small = c.look.small();
  const double text = line_height(small), lane = text + 2;
  const std::size_t count = std::max<std::size_t>(1, std::min<std::size_t>(data_.jobs.size(), 8));
  double name = text_width(small, "spans");
  for (std::size_t j = 0; j < count && j < data_.jobs.size(); ++j)
    name = std::max(name, text_width(small, QString::fromStdString(data_.jobs[j].name)));
  name = std::min(name + 12, area.width() * 0.35);
  const QRectF plot(area.left() + name, area.top() + 2, area.width() - name - colour_bar_width, lane * double(count));
  const double width = plot.width() / double(data_.all.size());
  c.p.save();
  c.p.setRenderHint(QPainter::Antialiasing, false);
  for (std::size_t j = 0; j < count; ++j) {
    const ColourTable table = kept_colours(c.look, j < data_.jobs.size() ? data_.jobs[j].colour : 0);
    const double y = plot.top() + double(j) * lane;
    draw_text(c, QRectF(area.left(), y, name - 8, lane),
              j < data_.jobs.size() ? QString::fromStdString(data_.jobs[j].name) : QString("spans"), small,
              j < data_.jobs.size() ? job_ink(c.look, data_.jobs[j].colour) : c.look.faint);
    for (std::size_t i = 0; i < data_.all.size(); ++i) {
      const SpanFate& fate = data_.all[i];
      const QRectF cell(plot.left() + double(i) * width, y, std::max(1.0, width - (width > 6 ? 1 : 0)), lane - 1);
      const double kept = j < fate.kept.size() ? fate.kept[j] : std::numeric_limits<double>::quiet_NaN();
      if (std::isnan(kept))
        c.p.fillRect(cell, c.look.panel);
      else
        c.p.fillRect(cell, QColor::fromRgb(table[shade(float(kept), 0.0f, 1.0f, false)]));
      const std::int64_t begin = fate.span.begin;
      QString words = QString("%1 %2 of %3, positions %4:%5 %6")
                          .arg(QString::fromStdString(fate.span.kind))
                          .arg(i + 1)
                          .arg(data_.all.size())
                          .arg(begin)
                          .arg(fate.span.end)
                          .arg(QString::fromStdString(fate.span.label));
      if (!std::isnan(kept))
        words += QString(": %1 keeps %2")
                     .arg(QString::fromStdString(data_.jobs[j].name), QString::fromStdString(percent(kept)));
      c.hit(cell, words, [begin](Selection& s) { s.key_at = begin; });
    }
  }
  c.p.restore();
  c.p.setPen(QPen(c.look.accent, 1.6));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(
      QRectF(plot.left() + double(data_.chosen) * width - 1, plot.top() - 2, std::max(3.0, width), plot.height() + 2));
  return plot.bottom() - area.top() + 6;
}

void Needle::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (data_.mass.query.empty()) return draw_nothing(c, area, "No query after this span was recorded.");
  QRectF rest = area;
  if (data_.all.size() > 1) rest.setTop(rest.top() + lanes(c, rest));
  const double text = line_height(c.look.small()), least = line_height(c.look.font) + 4 * text;
  const double extra = 2 * text + 10;  // for the numbers of the last
  const auto fit = std::size_t(std::max(1.0, (rest.height() - extra) / least - 1));
  const std::size_t panels = std::min({1 + data_.jobs.size(), fit, std::size_t(7)});
  const bool more = panels < 1 + data_.jobs.size();
  if (more) rest.setBottom(rest.bottom() - text - 2);
  // Attention twice as high as what each policy holds: it has more to say.
  const double each = (rest.height() - extra) / (panels > 1 ? double(panels) + 1 : 1);
  const double first = panels > 1 ? 2 * each : each + extra;
  QRectF keys = state.window.isEmpty() ? extent() : state.window;
  if (const Range query = input_.at.query; state.window.isEmpty() && input_.map.follow && !query.empty())
    keys = QRectF(double(query.begin), 0, double(query.end - query.begin), 1).intersected(extent());
  if (keys.isEmpty()) keys = extent();
  panel(c, QRectF(rest.left(), rest.top(), rest.width(), first), keys, "Attention on it",
        "largest of the layer's query heads", nullptr, panels == 1);
  for (std::size_t i = 1; i < panels; ++i)
    panel(c,
          QRectF(rest.left(), rest.top() + first + double(i - 1) * each, rest.width(),
                 each + (i + 1 == panels ? extra : 0)),
          keys, QString::fromStdString(data_.jobs[i - 1].name), QString::fromStdString(data_.jobs[i - 1].verdict),
          &data_.jobs[i - 1], i + 1 == panels);
  c.shown = keys;
  if (more)
    draw_text(
        c, QRectF(area.left(), area.bottom() - text, area.width(), text),
        QString("%1 more policies do not fit; show fewer, or make the view higher").arg(1 + data_.jobs.size() - panels),
        c.look.small(), c.look.faint);
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
                     .help =
                         "Who looks at the needle, and which policy lost it when. A click goes to the first loss; of "
                         "several spans, left and right go from one to the next.",
                     .place = 100,
                     .needs = Needs::trace,
                     .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
