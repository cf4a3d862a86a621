// Kept raster: a band per policy and keys across. A line per layer and head at one step, or a line per step of one
// head; zoomed out, colours mix by share.
#include "gui/models/kept.h"

#include <algorithm>
#include <limits>
#include <set>

#include "gui/views/raster.h"

namespace kvgrind::gui {
namespace {

// Of either kind.
struct Band {
  std::string name;
  std::size_t colour = 0;
  std::int64_t layers = 0, heads = 0, head = 0, kept = 0, seen = 0;
  std::vector<std::int64_t> steps;  // of each line, where lines are steps
  std::size_t step = 0;             // the line of the step looked at
  CategoryRaster raster;
};

class Kept final : public Scene {
 public:
  Kept(const ViewInput& input, const CancelToken& cancel)
      : input_(input), tokens_(sequence_of(input)->tokens), steps_(input.map.steps) {
    for (const ShownJob& job : input.jobs) {
      if (!job.view) continue;
      if (steps_)
        add(steps(job), cancel);
      else
        add(kept_band(job, input.at.step, tokens_), cancel);
    }
  }
  QString title() const override {
    return steps_ ? QString("What each policy kept, step by step, layer %1, q%2")
                        .arg(input_.at.layer)
                        .arg(input_.at.query_head)
                  : QString("What each policy kept");
  }
  QString subtitle() const override {
    std::int64_t seen = 0;
    for (const Band& band : bands_) seen = std::max(seen, band.seen);
    const QString start = QString("%1, sequence %2 of %3 tokens")
                              .arg(QString::fromStdString(input_.session->run().card().name))
                              .arg(input_.at.sequence)
                              .arg(tokens_);
    return start + (steps_ ? QString("; a line per step whose states were kept, the first on top")
                           : QString(", after %1 tokens; a line per layer and head, layer 0 on top").arg(seen));
  }
  QRectF extent() const override { return QRectF(0, 0, double(std::max<std::int64_t>(1, tokens_)), 1); }
  std::string csv(const ViewState&) const override {
    std::vector<KeptBand> bands;
    std::vector<StepBand> lines;
    for (const ShownJob& job : input_.jobs) {
      if (steps_)
        lines.push_back(steps(job));
      else
        bands.push_back(kept_band(job, input_.at.step, tokens_));
    }
    return steps_ ? step_table(lines).csv() : kept_table(bands).csv();
  }
  // States as in plans.h5. [jobs, lines, tokens]; NaN: not seen yet.
  Matrix matrix(const ViewState&) const override {
    std::int64_t lines = 0;
    for (const Band& band : bands_) lines = std::max(lines, band.raster.rows());
    if (lines == 0 || tokens_ == 0) return {};
    Matrix out{.shape = {std::int64_t(bands_.size()), lines, tokens_}, .data = {}};
    out.data.assign(bands_.size() * std::size_t(lines * tokens_), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t b = 0; b < bands_.size(); ++b)
      for (std::int64_t r = 0; r < bands_[b].raster.rows(); ++r)
        for (std::int64_t t = 0; t < bands_[b].raster.tokens(); ++t)
          if (const std::uint8_t state = bands_[b].raster.at(r, t); state != CategoryRaster::nothing)
            out.data[(b * std::size_t(lines) + std::size_t(r)) * std::size_t(tokens_) + std::size_t(t)] = float(state);
    return out;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;

 private:
  StepBand steps(const ShownJob& job) const {
    return step_band(job, input_.at.layer, input_.at.query_head, input_.session->run().card().query_heads, tokens_);
  }
  void add(KeptBand band, const CancelToken& cancel) {
    Band out{.name = band.name, .colour = band.colour, .layers = band.layers, .heads = band.heads, .seen = band.seen};
    out.kept = std::count_if(band.states.begin(), band.states.end(), is_kept);
    out.raster = CategoryRaster(band.groups(), band.seen, std::move(band.states), cancel);
    bands_.push_back(std::move(out));
  }
  void add(StepBand band, const CancelToken& cancel) {
    if (band.seen.empty()) return;
    Band out{.name = band.name,
             .colour = band.colour,
             .layers = 1,
             .heads = band.heads,
             .head = band.head,
             .seen = band.seen.back(),
             .steps = band.seen,
             .step = band.line_of(input_.at.step)};
    for (std::int64_t t = 0; t < band.seen[out.step]; ++t) out.kept += is_kept(band.state(out.step, t));
    out.raster = CategoryRaster(std::int64_t(band.seen.size()), band.tokens, std::move(band.states), cancel);
    bands_.push_back(std::move(out));
  }
  void draw(Canvas& c, const Band& band, const HeatAxes& axes, bool last) const;
  Hit hit(const Band& band, std::int64_t line, std::int64_t key) const;

  ViewInput input_;
  std::int64_t tokens_;
  bool steps_;
  std::vector<Band> bands_;
};

Hit Kept::hit(const Band& band, std::int64_t line, std::int64_t key) const {
  const bool seen = key < band.raster.tokens() && band.raster.at(line, key) != CategoryRaster::nothing;
  const QString state = seen ? state_name(band.raster.at(line, key)) : "not seen yet";
  const std::int64_t layer = steps_ ? input_.at.layer : line / band.heads,
                     head = steps_ ? band.head : line % band.heads;
  const std::int64_t step = steps_ ? band.steps[std::size_t(line)] : -1;
  QString text = QString("%1: layer %2, %3, key %4: %5")
                     .arg(QString::fromStdString(band.name))
                     .arg(layer)
                     .arg(head_name(input_, band.heads, head))
                     .arg(key)
                     .arg(state);
  if (steps_) text += QString(", after %1 tokens").arg(step);
  auto choose = choose_group(input_, band.heads, layer, head, key);
  return {text, [choose, steps = steps_, step](Selection& s) {
            if (steps) {
              const std::int64_t own = s.query_head;
              choose(s);
              s.query_head = own;  // one of the heads that share this line
              s.step = step;
            } else {
              choose(s);
            }
          }};
}

void Kept::draw(Canvas& c, const Band& band, const HeatAxes& axes, bool last) const {
  draw_raster(c, axes, band.raster,
              [&](std::uint8_t state) { return QColor::fromRgb(state_colour(state, c.look.dark)); });
  AxisLabels labels;
  if (steps_) {
    const std::size_t lines = band.steps.size(), apart = std::max<std::size_t>(1, lines / 8);
    for (std::size_t i = 0; i < lines; i += apart)
      labels.y.emplace_back(double(i) + 0.5, QString::number(band.steps[i]));
  } else {
    labels = layer_labels(band.layers, band.heads);
  }
  if (!last) labels.x.emplace_back(-1.0, QString());
  draw_axes(c, axes, labels);
  if (!steps_ && axes.plot.height() / double(band.layers) > 8) {
    c.p.setPen(QPen(c.look.ground, 1));
    for (std::int64_t l = 1; l < band.layers; ++l) {
      const double y = axes.y(double(l * band.heads));
      c.p.drawLine(QPointF(axes.plot.left() + 1, y), QPointF(axes.plot.right() - 1, y));
    }
  }
  draw_ranges(c, axes, input_, false);
  draw_key_cursor(c, axes, input_.at);
  if (steps_ && input_.at.step >= 0) draw_line_cursor(c, axes, double(band.step) + 0.5);
  c.hit(axes.plot, [this, &band, axes](QPointF at) -> std::optional<Hit> {
    const auto line = std::clamp<std::int64_t>(std::int64_t(axes.row(at.y())), 0, band.raster.rows() - 1);
    const auto key = std::int64_t(axes.column(at.x()));
    if (key < 0 || key >= tokens_) return std::nullopt;
    return hit(band, line, key);
  });
}

void Kept::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (bands_.empty()) return draw_nothing(c, area, "No policy is shown. Add one to see what it keeps.");
  if (tokens_ == 0) return draw_nothing(c, area, "This sequence has no tokens.");
  std::set<std::uint8_t> seen;
  for (const Band& band : bands_) seen.insert(band.raster.present().begin(), band.raster.present().end());
  std::vector<LegendItem> legend;
  for (const std::uint8_t s : seen) legend.push_back({state_name(s), QColor::fromRgb(state_colour(s, c.look.dark)), 0});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 4);
  const double title = line_height(c.look.font) + 2;
  const QRectF frame = heat_plot_area(c, rest, 12);
  const double each = frame.height() / double(bands_.size());
  const auto [x0, x1] = shown_keys(state, input_, tokens_);
  for (std::size_t i = 0; i < bands_.size(); ++i) {
    const Band& band = bands_[i];
    const double top = frame.top() + double(i) * each;
    if (band.raster.rows() == 0) continue;
    const bool last = i + 1 == bands_.size();
    const HeatAxes axes{.plot = QRectF(frame.left(), top + title, frame.width(), std::max(4.0, each - title - 6)),
                        .x0 = x0,
                        .x1 = x1,
                        .y0 = 0,
                        .y1 = double(band.raster.rows()),
                        .x_title = last ? "key position" : "",
                        .y_title = steps_ && each > 90 ? "tokens seen" : ""};
    const QString words = steps_ ? QString("%1: %2 holds %3 tokens after %4")
                                       .arg(QString::fromStdString(band.name), head_name(input_, band.heads, band.head))
                                       .arg(band.kept)
                                       .arg(band.steps[band.step])
                                 : QString("%1: holds %2 of %3 token-groups")
                                       .arg(QString::fromStdString(band.name))
                                       .arg(band.kept)
                                       .arg(band.raster.rows() * band.raster.tokens());
    draw_text(c, QRectF(frame.left(), top, frame.width(), title), words, c.look.font, job_ink(c.look, band.colour));
    draw(c, band, axes, last);
  }
  c.plot = frame;
  c.shown = QRectF(x0, 0, x1 - x0, 1);
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) { return std::make_shared<Kept>(input, cancel); }

}  // namespace

namespace rows {
extern const ViewRow kept;
const ViewRow kept{.name = "kept",
                   .title = "Kept raster",
                   .help =
                       "What became of every token, per policy, layer and head. Comma and full stop move the step, "
                       "Space plays it; Y puts the steps of the chosen head one below the other.",
                   .place = 40,
                   .needs = Needs::jobs,
                   .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
