// Kept raster: a band per policy, a line per layer and head, keys across; zoomed out, colours mix by share.
#include "gui/models/kept.h"

#include <cmath>
#include <set>

#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

class Kept final : public Scene {
 public:
  explicit Kept(const ViewInput& input) : input_(input), tokens_(sequence_of(input)->tokens) {
    for (const ShownJob& job : input.jobs)
      if (job.view) bands_.push_back(kept_band(job, input.at.step, tokens_));
  }
  QString title() const override { return "What each policy kept"; }
  QString subtitle() const override {
    std::int64_t seen = 0;
    for (const KeptBand& band : bands_) seen = std::max(seen, band.seen);
    return QString("%1, sequence %2 of %3 tokens, after %4 tokens; a line per layer and head, layer 0 on top")
        .arg(QString::fromStdString(input_.session->run().card().name))
        .arg(input_.at.sequence)
        .arg(tokens_)
        .arg(seen);
  }
  QRectF extent() const override { return QRectF(0, 0, double(std::max<std::int64_t>(1, tokens_)), 1); }
  std::string csv() const override { return kept_table(bands_).csv(); }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;

 private:
  void band(Canvas& c, const KeptBand& band, const HeatAxes& axes, bool last) const;
  ViewInput input_;
  std::int64_t tokens_;
  std::vector<KeptBand> bands_;
};

void Kept::band(Canvas& c, const KeptBand& band, const HeatAxes& axes, bool last) const {
  const int columns = std::max(1, int(axes.plot.width() * c.look.device_pixels)), rows = int(band.groups());
  QImage image(columns, rows, QImage::Format_RGB32);
  for (int r = 0; r < rows; ++r)
    for (int x = 0; x < columns; ++x) {
      const double a = axes.x0 + (axes.x1 - axes.x0) * x / columns,
                   b = axes.x0 + (axes.x1 - axes.x0) * (x + 1) / columns;
      const auto begin = std::int64_t(a), end = std::max(begin + 1, std::int64_t(std::ceil(b - 1e-9)));
      const auto counts = count_states(band, r, begin, end);
      int red = 0, green = 0, blue = 0, all = 0;
      for (std::size_t s = 0; s < counts.size(); ++s) {
        const Rgb colour = state_colour(static_cast<std::uint8_t>(s), c.look.dark);
        red += counts[s] * int((colour >> 16) & 0xFF);
        green += counts[s] * int((colour >> 8) & 0xFF);
        blue += counts[s] * int(colour & 0xFF);
        all += counts[s];
      }
      image.setPixel(x, r, all ? qRgb(red / all, green / all, blue / all) : c.look.ground.rgb());
    }
  c.p.drawImage(axes.plot, image);
  AxisLabels labels;
  for (std::int64_t l = 0; l < band.layers; ++l)
    labels.y.emplace_back((double(l) + 0.5) * double(band.heads), QString("L%1").arg(l));
  if (!last) labels.x.emplace_back(-1.0, QString());
  draw_axes(c, axes, labels);
  c.p.setPen(QPen(c.look.ground, 1));
  if (axes.plot.height() / double(band.layers) > 8)
    for (std::int64_t l = 1; l < band.layers; ++l) {
      const double y = axes.y(double(l * band.heads));
      c.p.drawLine(QPointF(axes.plot.left() + 1, y), QPointF(axes.plot.right() - 1, y));
    }
  c.p.setPen(QPen(c.look.accent, 1));
  if (input_.at.key_at >= 0 && input_.at.key_at >= axes.x0 && input_.at.key_at < axes.x1) {
    const double x = axes.x(double(input_.at.key_at) + 0.5);
    c.p.drawLine(QPointF(x, axes.plot.top()), QPointF(x, axes.plot.bottom()));
  }
  c.hit(axes.plot, [this, &band, axes](QPointF at) -> std::optional<Hit> {
    const auto group = std::clamp<std::int64_t>(std::int64_t(axes.row(at.y())), 0, band.groups() - 1);
    const auto key = std::int64_t(axes.column(at.x()));
    if (key < 0 || key >= tokens_) return std::nullopt;
    const std::int64_t layer = group / band.heads, head = group % band.heads;
    const QString words = key < band.seen ? state_name(band.state(group, key)) : "not seen yet";
    const std::int64_t per = input_.session->run().card().query_heads / band.heads;
    return Hit{QString("%1: layer %2, %3%4, key %5: %6")
                   .arg(QString::fromStdString(band.name))
                   .arg(layer)
                   .arg(per > 1 ? "kv" : "q")
                   .arg(head)
                   .arg(key)
                   .arg(words),
               [layer, head, per, key](Selection& s) {
                 s.layer = layer;
                 s.query_head = head * per;
                 s.key_at = key;
               }};
  });
}

void Kept::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (bands_.empty()) return draw_nothing(c, area, "No policy is shown. Add one to see what it keeps.");
  if (tokens_ == 0) return draw_nothing(c, area, "This sequence has no tokens.");
  std::set<std::uint8_t> seen;
  for (const KeptBand& band : bands_) seen.insert(band.states.begin(), band.states.end());
  std::vector<LegendItem> legend;
  for (const std::uint8_t s : seen) legend.push_back({state_name(s), QColor::fromRgb(state_colour(s, c.look.dark)), 0});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 4);
  const double title = line_height(c.look.font) + 2;
  const QRectF frame = heat_plot_area(c, rest, 12);
  const double each = frame.height() / double(bands_.size());
  double x0 = 0, x1 = double(tokens_);
  if (!state.window.isEmpty()) {
    x0 = state.window.left();
    x1 = state.window.right();
  } else if (!input_.at.key.empty()) {
    x0 = double(input_.at.key.begin);
    x1 = double(input_.at.key.end);
  }
  for (std::size_t i = 0; i < bands_.size(); ++i) {
    const double top = frame.top() + double(i) * each;
    if (bands_[i].groups() == 0) continue;
    const HeatAxes axes{.plot = QRectF(frame.left(), top + title, frame.width(), std::max(4.0, each - title - 6)),
                        .x0 = x0,
                        .x1 = x1,
                        .y0 = 0,
                        .y1 = double(bands_[i].groups()),
                        .x_title = i + 1 == bands_.size() ? "key position" : "",
                        .y_title = ""};
    std::int64_t kept = 0;
    for (const std::uint8_t s : bands_[i].states) kept += is_kept(s);
    draw_text(c, QRectF(frame.left(), top, frame.width(), title),
              QString("%1: holds %2 of %3 token-groups")
                  .arg(QString::fromStdString(bands_[i].name))
                  .arg(kept)
                  .arg(bands_[i].states.size()),
              c.look.font, QColor::fromRgb(job_colour(bands_[i].colour)));
    band(c, bands_[i], axes, i + 1 == bands_.size());
  }
  c.plot = frame;
  c.shown = QRectF(x0, 0, x1 - x0, 1);
}

ScenePtr load(const ViewInput& input, const CancelToken&) { return std::make_shared<Kept>(input); }

}  // namespace

namespace rows {
extern const ViewRow kept;
const ViewRow kept{.name = "kept",
                   .title = "Kept raster",
                   .help =
                       "What became of every token, per policy, layer and head. Comma and full stop move the step, "
                       "Space plays it.",
                   .place = 40,
                   .needs = Needs::jobs,
                   .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
