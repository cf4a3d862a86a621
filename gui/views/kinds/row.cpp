// Row inspector: the keys one query looks at, most first, with running sum and what each policy kept.
#include "gui/models/row_keys.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

class Row final : public Scene {
 public:
  Row(const ViewInput& input, RowKeys row) : input_(input), row_(std::move(row)) {}
  QString title() const override {
    return row_.query < 0
               ? QString("Row inspector")
               : QString("What query %1 %2 looks at").arg(row_.query).arg(QString::fromStdString(row_.query_token));
  }
  QString subtitle() const override {
    QString text = QString("layer %1, query head q%2, sequence %3; bars: weight, line: running sum")
                       .arg(row_.layer)
                       .arg(row_.query_head)
                       .arg(input_.at.sequence);
    for (std::size_t j = 0; j < row_.jobs.size(); ++j)
      text += QString("; %1 keeps %2 of the weight")
                  .arg(QString::fromStdString(row_.jobs[j]), QString::fromStdString(percent(row_.job_recall[j])));
    return text;
  }
  std::string csv(const ViewState&) const override { return row_table(row_).csv(); }
  // The whole row, by position. [tokens]
  Matrix matrix(const ViewState&) const override {
    if (row_.query < 0) return {};
    const auto row = input_.session->attention_row(input_.at.sequence, row_.layer, row_.query_head, row_.query);
    return {.shape = {std::int64_t(row.weight.size())}, .data = row.weight};
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  ViewInput input_;
  RowKeys row_;
};

void Row::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (row_.query < 0) return draw_nothing(c, area, "No query of this head was recorded.");
  const QFont small = c.look.small();
  const double height = line_height(c.look.font) + 5;
  const double rank = text_width(small, "0000"), key = text_width(small, "0000000"),
               token = text_width(c.look.font, "mmmmmmmm");
  const double value = text_width(small, "0.00e-00 ");
  const double marks = 18.0 * double(row_.jobs.size());
  const double bars = std::max(40.0, area.width() - rank - key - token - value - marks - 40);
  const double x_key = area.left() + rank, x_token = x_key + key + 8, x_bar = x_token + token + 8;
  const double x_value = x_bar + bars + 8, x_marks = x_value + value + 8;
  QRectF rest = area;
  if (!row_.jobs.empty()) {
    std::vector<LegendItem> legend;
    for (std::size_t j = 0; j < row_.jobs.size(); ++j)
      legend.push_back(
          {QString::fromStdString(row_.jobs[j]) + " (filled: kept)", QColor::fromRgb(job_colour(row_.colours[j])), 0});
    rest.setTop(rest.top() + draw_legend(c, rest, legend) + 4);
  }
  const auto header = [&](double x, double width, const char* text, Qt::Alignment align) {
    draw_text(c, QRectF(x, rest.top(), width, height), text, small, c.look.faint, align | Qt::AlignVCenter);
  };
  header(area.left(), rank, "rank", Qt::AlignLeft);
  header(x_key, key, "key", Qt::AlignRight);
  header(x_token, token, "token", Qt::AlignLeft);
  header(x_bar, bars, "weight, and running sum to 1 at the right", Qt::AlignLeft);
  const double top = rest.top() + height;
  const double largest = row_.keys.empty() ? 1 : std::max(1e-9, row_.keys.front().weight);
  QPolygonF sum;
  for (std::size_t i = 0; i < row_.keys.size(); ++i) {
    const double y = top + double(i) * height;
    if (y + height > rest.bottom()) break;
    const RowKey& one = row_.keys[i];
    const QRectF line(area.left(), y, area.width(), height);
    if (one.key == input_.at.key_at) c.p.fillRect(line, c.look.panel);
    draw_text(c, QRectF(area.left(), y, rank, height), QString::number(one.rank), small, c.look.faint);
    draw_text(c, QRectF(x_key, y, key, height), QString::number(one.key), small, c.look.ink,
              Qt::AlignRight | Qt::AlignVCenter);
    draw_text(c, QRectF(x_token, y, token, height), QString::fromStdString(one.token), c.look.font, c.look.ink);
    c.p.fillRect(QRectF(x_bar, y + 3, bars * one.weight / largest, height - 6), QColor(0x00, 0x72, 0xB2));
    draw_text(c, QRectF(x_value, y, value, height), QString::fromStdString(short_number(one.weight)), small,
              c.look.ink);
    for (std::size_t j = 0; j < one.kept.size(); ++j) {
      const QRectF mark(x_marks + 18.0 * double(j), y + height / 2 - 5, 10, 10);
      const QColor colour = QColor::fromRgb(job_colour(row_.colours[j]));
      c.p.setPen(QPen(colour, 1.3));
      c.p.setBrush(one.kept[j] ? QBrush(colour) : QBrush(Qt::NoBrush));
      c.p.drawRect(mark);
    }
    sum << QPointF(x_bar + bars * std::min(1.0, one.cumulative), y + height / 2);
    const std::int64_t at = one.key;
    c.hit(line,
          QString("rank %1: key %2 %3, weight %4, running sum %5")
              .arg(one.rank)
              .arg(one.key)
              .arg(QString::fromStdString(one.token), QString::fromStdString(short_number(one.weight)),
                   QString::fromStdString(percent(one.cumulative))),
          [at](Selection& s) { s.key_at = at; });
  }
  c.p.setPen(QPen(c.look.accent, 1.6));
  c.p.setBrush(Qt::NoBrush);
  c.p.drawPolyline(sum);
}

ScenePtr load(const ViewInput& input, const CancelToken&) { return std::make_shared<Row>(input, row_keys(input, 200)); }

}  // namespace

namespace rows {
extern const ViewRow row;
const ViewRow row{.name = "row",
                  .title = "Row inspector",
                  .help = "The keys of one query by weight. A click chooses a key in all views.",
                  .place = 110,
                  .needs = Needs::trace,
                  .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
