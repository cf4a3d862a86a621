// Token text: the sequence as it reads, shaded by received attention, or by how many policies keep each token.
#include <algorithm>
#include <cmath>
#include <mutex>

#include "gui/models/kept.h"
#include "gui/models/text_lines.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

class Text final : public Scene {
 public:
  Text(const ViewInput& input, const CancelToken& cancel) : input_(input) {
    const traces::SequenceInfo& info = *sequence_of(input);
    spans_ = info.spans;
    if (input.text) widths_ = text_widths(*input.text);
    for (const ShownJob& job : input.jobs)
      if (job.view && !input.map.received) bands_.push_back(kept_band(job, input.at.step, info.tokens));
    if (bands_.empty() && info.tokens > 0) {
      sampled_ = input.session->received_mass_is_sampled(input.at.sequence, input.at.layer);
      mass_ = input.session->received_mass(input.at.sequence, input.at.layer, -1, cancel);
    }
    if (!mass_.empty()) {
      std::vector<float> sorted = mass_;
      const auto place = sorted.begin() + std::ptrdiff_t(double(sorted.size() - 1) * 0.98);
      std::nth_element(sorted.begin(), place, sorted.end());
      high_ = std::max(1e-6f, *place);
    }
  }
  QString title() const override { return "Tokens"; }
  QString subtitle() const override {
    const QString shaded = bands_.empty()
                               ? QString("shaded by the attention each token received in layer %1%2")
                                     .arg(input_.at.layer)
                                     .arg(sampled_ ? ", estimated from some queries" : "")
                               : QString("shaded by the share of layers, heads and policies that keep a token (%1 %2)")
                                     .arg(bands_.size())
                                     .arg(bands_.size() == 1 ? "policy" : "policies");
    return QString("sequence %1, %2; needles are underlined").arg(input_.at.sequence).arg(shaded);
  }
  std::string csv(const ViewState&) const override;
  // What the shades show: received mass, or the share that keeps a token. [tokens]
  Matrix matrix(const ViewState&) const override {
    const std::int64_t tokens = sequence_of(input_)->tokens;
    if (tokens == 0) return {};
    Matrix out{.shape = {tokens}, .data = {}};
    for (std::int64_t t = 0; t < tokens; ++t)
      out.data.push_back(bands_.empty() ? mass_[std::size_t(t)] : float(share(t)));
    return out;
  }
  std::string html() const override;
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;
  bool scrolls() const override { return true; }

 private:
  double share(std::int64_t token) const;
  std::shared_ptr<const TextLines> lines(std::int64_t columns) const;
  ViewInput input_;
  std::vector<Span> spans_;
  std::vector<KeptBand> bands_;
  std::vector<float> mass_;
  float high_ = 1;
  bool sampled_ = false;
  TextWidths widths_;
  mutable std::mutex mutex_;
  mutable std::int64_t columns_ = 0;  // what lines_ was broken for
  mutable std::shared_ptr<const TextLines> lines_;
};

double Text::share(std::int64_t token) const {
  if (bands_.empty()) return std::min(1.0, double(mass_[std::size_t(token)] / high_));
  double kept = 0, groups = 0;
  for (const KeptBand& band : bands_) {
    groups += double(band.groups());
    if (token >= band.seen) continue;
    for (std::int64_t g = 0; g < band.groups(); ++g) kept += is_kept(band.state(g, token));
  }
  return groups > 0 ? kept / groups : 0;
}

std::shared_ptr<const TextLines> Text::lines(std::int64_t columns) const {
  const std::lock_guard lock(mutex_);
  if (!lines_ || columns_ != columns) lines_ = std::make_shared<const TextLines>(text_lines(widths_, columns));
  columns_ = columns;
  return lines_;
}

std::string Text::csv(const ViewState&) const {
  Table table{.header = {"position", "token", bands_.empty() ? "received_mass" : "kept_share"}, .rows = {}};
  for (std::size_t t = 0; input_.text && t < input_.text->size(); ++t)
    table.rows.push_back({std::to_string(t), token_label((*input_.text)[t], 64),
                          number(bands_.empty() ? double(mass_[t]) : share(std::int64_t(t)))});
  return table.csv();
}

std::string Text::html() const {
  if (!input_.text || input_.text->empty()) return {};
  QString out =
      QString(
          "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>%1</title>\n<h1>%1</h1>\n<p>%2</p>\n"
          "<pre style=\"white-space:pre-wrap\">")
          .arg(title().toHtmlEscaped(), subtitle().toHtmlEscaped());
  for (std::size_t t = 0; t < input_.text->size(); ++t) {
    const bool needle = std::any_of(spans_.begin(), spans_.end(), [&](const Span& span) {
      return span.kind == "needle" && std::int64_t(t) >= span.begin && std::int64_t(t) < span.end;
    });
    out += QString("<span title=\"%1\" style=\"background:rgba(255,166,77,%2)%3\">%4</span>")
               .arg(t)
               .arg(0.85 * share(std::int64_t(t)), 0, 'f', 3)
               .arg(needle ? ";text-decoration:underline" : "",
                    QString::fromStdString(plain_label((*input_.text)[t])).toHtmlEscaped());
    if ((*input_.text)[t].ends_with('\n')) out += '\n';
  }
  return (out + "</pre></html>\n").toStdString();
}

void Text::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  if (!input_.text || input_.text->empty()) return draw_nothing(c, area, "The recording holds no text of its tokens.");
  QFont mono("DejaVu Sans Mono");
  mono.setStyleHint(QFont::Monospace);
  mono.setPointSizeF(c.look.font.pointSizeF());
  const double letter = text_width(mono, "0000000000") / 10, height = line_height(mono) + 3;
  const double margin = text_width(c.look.small(), "0000000") + 6;
  const auto broken = lines(std::max<std::int64_t>(8, std::int64_t((area.width() - margin) / letter)));
  const auto shown = std::max<std::size_t>(1, std::size_t(area.height() / height));
  std::size_t top = 0;
  if (state.window.height() > 0) {
    top = std::size_t(std::max(0.0, state.window.top()));
  } else {
    const std::int64_t focus = input_.at.key_at >= 0    ? input_.at.key_at
                               : !input_.at.key.empty() ? input_.at.key.begin
                               : !spans_.empty()        ? spans_.front().begin
                                                        : 0;
    const std::size_t line = broken->line_of(focus);
    top = line > shown / 3 ? line - shown / 3 : 0;
  }
  top = std::min(top, broken->first.size() > shown ? broken->first.size() - shown : 0);
  c.p.setFont(mono);
  for (std::size_t row = 0; row < shown && top + row < broken->first.size(); ++row) {
    const double y = area.top() + double(row) * height;
    draw_text(c, QRectF(area.left(), y, margin - 8, height), QString::number(broken->first[top + row]), c.look.small(),
              c.look.faint, Qt::AlignRight | Qt::AlignVCenter);
    double x = area.left() + margin;
    for (std::int64_t t = broken->first[top + row]; t < broken->end(top + row); ++t) {
      const QRectF box(x, y, letter * double(widths_.width[std::size_t(t)]), height);
      QColor ground = c.look.dark ? QColor(0xE6, 0x79, 0x1E) : QColor(0xFF, 0xA6, 0x4D);
      ground.setAlphaF(0.85 * share(t));
      c.p.fillRect(box.adjusted(0, 1, 0, -1), ground);
      draw_text(c, box, QString::fromStdString(plain_label((*input_.text)[std::size_t(t)])), mono, c.look.ink);
      for (const Span& span : spans_)
        if (span.kind == "needle" && t >= span.begin && t < span.end) {
          c.p.setPen(QPen(c.look.accent, 2));
          c.p.drawLine(QPointF(box.left(), box.bottom() - 1), QPointF(box.right(), box.bottom() - 1));
          break;
        }
      if (t == input_.at.key_at) {
        c.p.setPen(QPen(c.look.accent, 1.5));
        c.p.setBrush(Qt::NoBrush);
        c.p.drawRect(box.adjusted(0.5, 0.5, -0.5, -0.5));
      }
      c.hit(box,
            QString("token %1 %2: %3")
                .arg(t)
                .arg(QString::fromStdString(token_label((*input_.text)[std::size_t(t)])),
                     bands_.empty()
                         ? QString("received %1 of a query's attention, summed over queries")
                               .arg(QString::fromStdString(short_number(double(mass_[std::size_t(t)]))))
                         : QString("kept in %1 of layers and heads").arg(QString::fromStdString(percent(share(t))))),
            [t](Selection& s) { s.key_at = t; });
      x += box.width();
    }
  }
  c.shown = QRectF(0, double(top), 1, double(shown));
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) { return std::make_shared<Text>(input, cancel); }

}  // namespace

namespace rows {
extern const ViewRow text;
const ViewRow text{.name = "text",
                   .title = "Token text",
                   .help = "The tokens as they read. A click chooses a key; Alt+click a query. Ctrl+F finds text.",
                   .place = 90,
                   .needs = Needs::trace,
                   .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
