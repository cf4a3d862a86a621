// Channels: size of K (or V) per head and channel, its outliers, and what 4-bit quantisation along either axis costs.
#include <algorithm>
#include <cmath>

#include "gui/models/table.h"
#include "gui/views/plot.h"
#include "gui/views/raster.h"

namespace kvgrind::gui {
namespace {

class Channels final : public Scene {
 public:
  Channels(const ViewInput& input, replay::ChannelFacts facts) : input_(input), facts_(std::move(facts)) {}
  QString title() const override {
    return QString("Channels of %1, layer %2").arg(input_.map.values ? "V" : "K (post-RoPE)").arg(input_.at.layer);
  }
  QString subtitle() const override {
    return QString(
               "sequence %1; a line per KV head; %2 of channels have a mean of more than 4 times their head's median")
        .arg(input_.at.sequence)
        .arg(QString::fromStdString(percent(facts_.outlier_share)));
  }
  // Mean |x|, largest |x|, error with scales per token, per channel. [4, Hk, D]
  Matrix matrix(const ViewState&) const override {
    if (facts_.mean_abs.empty()) return {};
    Matrix out{.shape = {4, facts_.mean_abs.extent(0), facts_.mean_abs.extent(1)}, .data = {}};
    for (const auto* one : {&facts_.mean_abs, &facts_.largest, &facts_.token_error, &facts_.channel_error})
      out.data.insert(out.data.end(), one->data(), one->data() + one->size());
    return out;
  }
  std::string csv(const ViewState&) const override {
    Table table{
        .header = {"kv_head", "channel", "mean_abs", "largest_abs", "error_4bit_per_token", "error_4bit_per_channel"},
        .rows = {}};
    for (std::int64_t h = 0; h < facts_.mean_abs.extent(0); ++h)
      for (std::int64_t d = 0; d < facts_.mean_abs.extent(1); ++d)
        table.rows.push_back({std::to_string(h), std::to_string(d), number(double(facts_.mean_abs(h, d))),
                              number(double(facts_.largest(h, d))), number(double(facts_.token_error(h, d))),
                              number(double(facts_.channel_error(h, d)))});
    return table.csv();
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  void strip(Canvas& c, const QRectF& area, const QString& title, const Array<float, 2>& values, double high,
             bool last) const;
  void histogram(Canvas& c, const QRectF& area, const QString& title,
                 const std::vector<std::pair<const Array<float, 2>*, QColor>>& lists) const;
  ViewInput input_;
  replay::ChannelFacts facts_;
};

double largest(const Array<float, 2>& values) {
  float out = 0;
  for (std::int64_t i = 0; i < values.size(); ++i)
    if (std::isfinite(values.data()[i])) out = std::max(out, values.data()[i]);
  return out > 0 ? double(out) : 1.0;
}

void Channels::strip(Canvas& c, const QRectF& area, const QString& title, const Array<float, 2>& values, double high,
                     bool last) const {
  const double height = line_height(c.look.font) + 2;
  draw_text(c, QRectF(area.left(), area.top(), area.width(), height), title, c.look.font, c.look.ink);
  HeatAxes axes = panel_axes(c, area, height, colour_bar_width, last, "channel");
  axes.x1 = double(values.extent(1));
  axes.y1 = double(values.extent(0));
  QImage image(int(values.extent(1)), int(values.extent(0)), QImage::Format_RGB32);
  const ColourTable& table = colour_table(input_.map.colours);
  for (std::int64_t h = 0; h < values.extent(0); ++h)
    for (std::int64_t d = 0; d < values.extent(1); ++d)
      image.setPixel(int(d), int(h),
                     std::isnan(values(h, d)) ? nan_colour : table[shade(values(h, d), 0.0f, float(high), false)]);
  c.p.drawImage(axes.plot, image);
  AxisLabels labels;
  for (std::int64_t h = 0; h < values.extent(0); ++h) labels.y.emplace_back(double(h) + 0.5, QString("kv%1").arg(h));
  if (!last) labels.x.emplace_back(-1.0, QString());
  draw_axes(c, axes, labels);
  draw_colour_bar(c, axes.plot, table, 0, high, false, "");
  const double own = double(input_.at.query_head / query_heads_per(input_, values.extent(0)));
  c.p.setPen(QPen(c.look.accent, 1.6));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawRect(QRectF(QPointF(axes.plot.left(), axes.y(own)), QPointF(axes.plot.right(), axes.y(own + 1))));
  c.hit(axes.plot, [this, &values, axes, title](QPointF at) -> std::optional<Hit> {
    const auto h = std::clamp<std::int64_t>(std::int64_t(axes.row(at.y())), 0, values.extent(0) - 1);
    const auto d = std::clamp<std::int64_t>(std::int64_t(axes.column(at.x())), 0, values.extent(1) - 1);
    return Hit{QString("%1: kv%2, channel %3: %4")
                   .arg(title)
                   .arg(h)
                   .arg(d)
                   .arg(QString::fromStdString(short_number(double(values(h, d))))),
               choose_group(input_, values.extent(0), input_.at.layer, h)};
  });
}

// How many channels have which value: one outline a list, on one scale.
void Channels::histogram(Canvas& c, const QRectF& area, const QString& title,
                         const std::vector<std::pair<const Array<float, 2>*, QColor>>& lists) const {
  constexpr int bins = 24;
  double high = 0, most = 1;
  for (const auto& [values, colour] : lists) high = std::max(high, largest(*values));
  const auto plot = make_plot(c.look);
  for (const auto& [values, colour] : lists) {
    QList<double> x, y;
    for (int i = 0; i < bins; ++i) {
      x.push_back((i + 0.5) * high / bins);
      y.push_back(0);
    }
    for (std::int64_t i = 0; i < values->size(); ++i)
      if (std::isfinite(values->data()[i]))
        y[std::clamp(int(double(values->data()[i]) / high * bins), 0, bins - 1)] += 1;
    auto* bars = new QCPBars(plot->xAxis, plot->yAxis);
    bars->setWidth(high / bins * 0.9);
    bars->setData(x, y, true);
    bars->setPen(Qt::NoPen);
    QColor fill = colour;
    if (lists.size() > 1) fill.setAlpha(150);
    bars->setBrush(fill);
    most = std::max(most, *std::max_element(y.begin(), y.end()));
  }
  QSharedPointer<QCPAxisTickerFixed> whole(new QCPAxisTickerFixed);  // channels are counted
  whole->setTickStep(std::max(1.0, std::ceil(most / 5)));
  plot->yAxis->setTicker(whole);
  plot->yAxis->setSubTicks(false);
  plot->xAxis->setRange(0, high);
  plot->yAxis->setRange(0, 1.05 * most);
  plot->xAxis->setLabel(title);
  plot->yAxis->setLabel("channels");
  plot->xAxis->ticker()->setTickCount(4);
  draw_plot(c, area, *plot);
}

void Channels::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (facts_.mean_abs.empty() || sequence_of(input_)->tokens == 0)
    return draw_nothing(c, area, "This sequence has no tokens.");
  const double side = std::min(340.0, area.width() * 0.32);
  const QRectF left = area.adjusted(0, 0, -side - 8, 0);
  const double extra = 2 * line_height(c.look.small()) + 10, each = (left.height() - extra) / 4;
  const double error = std::max(largest(facts_.token_error), largest(facts_.channel_error));
  const auto place = [&](int i) {
    return QRectF(left.left(), left.top() + i * each, left.width(), each + (i == 3 ? extra : 0));
  };
  strip(c, place(0), "mean |x|", facts_.mean_abs, largest(facts_.mean_abs), false);
  strip(c, place(1), "largest |x|", facts_.largest, largest(facts_.largest), false);
  strip(c, place(2), "relative error at 4 bits, scales per token", facts_.token_error, error, false);
  strip(c, place(3), "relative error at 4 bits, scales per channel", facts_.channel_error, error, true);
  const QColor blue(0x00, 0x72, 0xB2), orange(0xD5, 0x5E, 0x00);
  QRectF right(area.right() - side, area.top() + 4, side, area.height() - 4);
  right.setHeight(std::min((right.height() - 10) / 2, 330.0));
  histogram(c, right, "mean |x| of a channel", {{&facts_.mean_abs, blue}});
  right.moveTop(right.bottom() + 6);
  right.setTop(right.top() + draw_legend(c, right.adjusted(40, 0, 0, 0),
                                         {{"scales per token", orange, 0}, {"scales per channel", blue, 0}}));
  histogram(c, right, "relative error at 4 bits", {{&facts_.token_error, orange}, {&facts_.channel_error, blue}});
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) {
  return std::make_shared<Channels>(
      input, input.session->channels(input.at.sequence, input.at.layer, input.map.values, cancel));
}

}  // namespace

namespace rows {
extern const ViewRow channels;
const ViewRow channels{
    .name = "channels",
    .title = "Channels",
    .help =
        "Sizes and quantisation errors per channel of K; V shows those of V. A click chooses a head, PgUp and "
        "PgDn another layer.",
    .place = 120,
    .needs = Needs::trace,
    .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
