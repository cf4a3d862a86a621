// Head grid: a small map of every layer and query head, framed by what kind of head it is.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "gui/models/table.h"
#include "gui/models/tile_pyramid.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

constexpr std::int64_t thumbnail_side = 96;

struct Head {
  replay::HeadFacts facts;
  QImage image;
};

QColor kind_colour(const std::string& kind) {
  if (kind == "sink") return QColor(0x8C, 0x8C, 0x8C);
  if (kind == "local") return QColor(0x56, 0xB4, 0xE9);
  if (kind == "look-up") return QColor(0xD5, 0x5E, 0x00);
  return QColor(0x00, 0x9E, 0x73);
}

QImage image_of(const replay::Tile& tile, int colours) {
  const std::int64_t rows = tile.value.extent(0), columns = tile.value.extent(1);
  QImage out(int(columns), int(rows), QImage::Format_ARGB32);
  out.fill(Qt::transparent);
  const ColourTable& table = colour_table(colours);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c <= std::min(r, columns - 1); ++c) {
      const float value = tile.value(r, c);
      if (!tile.recorded[std::size_t(r)]) continue;
      out.setPixel(int(c), int(r), std::isnan(value) ? nan_colour : table[shade(value, attention_low, 1.0f, true)]);
    }
  return out;
}

class Heads final : public Scene {
 public:
  Heads(const ViewInput& input, const CancelToken& cancel) : input_(input) {
    const ModelCard& card = input.session->run().card();
    heads_.resize(std::size_t(card.layers * card.query_heads));
    if (sequence_of(input)->tokens == 0) return;
    parallel_for(card.layers * card.query_heads, [&](std::int64_t i) {
      cancel.throw_if_cancelled();
      const std::int64_t layer = i / card.query_heads, head = i % card.query_heads;
      Head& out = heads_[std::size_t(i)];
      out.facts = input.session->head_facts(input.at.sequence, layer, head, cancel);
      out.image =
          image_of(input.session->thumbnail(input.at.sequence, layer, head, thumbnail_side, cancel), input.map.colours);
    });
  }
  QString title() const override { return "Attention of every head"; }
  QString subtitle() const override {
    return QString(
               "%1, sequence %2; a line per layer, largest weight of a cell, log scale 1e-5 to 1; "
               "kinds from up to 48 queries a head")
        .arg(QString::fromStdString(input_.session->run().card().name))
        .arg(input_.at.sequence);
  }
  std::string csv() const override {
    Table table{
        .header = {"layer", "query_head", "kind", "sink_mass", "local_mass", "entropy_bits", "largest_far", "queries"},
        .rows = {}};
    for (const Head& head : heads_)
      table.rows.push_back({std::to_string(head.facts.layer), std::to_string(head.facts.query_head), head.facts.kind,
                            number(head.facts.sink_mass), number(head.facts.local_mass),
                            number(head.facts.entropy_bits), number(head.facts.largest),
                            std::to_string(head.facts.queries)});
    return table.csv();
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  ViewInput input_;
  std::vector<Head> heads_;
};

void Heads::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (sequence_of(input_)->tokens == 0) return draw_nothing(c, area, "This sequence has no tokens.");
  const ModelCard& card = input_.session->run().card();
  std::vector<LegendItem> legend;
  for (const char* kind : {"look-up", "local", "sink", "mixed"}) legend.push_back({kind, kind_colour(kind), 0});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 2);
  const QFont small = c.look.small();
  const double label = line_height(small), left = text_width(small, "L00 ");
  const double across = (rest.width() - left) / double(card.query_heads);
  const double down = (rest.height() - label) / double(card.layers);
  const double side = std::max(4.0, std::min(across, down) - 8);
  for (std::int64_t h = 0; h < card.query_heads; ++h)
    if (across > text_width(small, "q00") || h % 4 == 0)
      draw_text(c, QRectF(rest.left() + left + double(h) * across, rest.top() - 3, std::max(across, 30.0), label),
                QString("q%1").arg(h), small, c.look.faint, Qt::AlignLeft | Qt::AlignVCenter);
  for (std::int64_t l = 0; l < card.layers; ++l) {
    const double y = rest.top() + label + double(l) * down;
    if (down >= label || l % 4 == 0)
      draw_text(c, QRectF(rest.left(), y, left, std::max(side, label)), QString("L%1").arg(l), small, c.look.faint);
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const Head& head = heads_[std::size_t(l * card.query_heads + h)];
      const QRectF cell(rest.left() + left + double(h) * across, y, std::min(across - 8, 1.7 * side), side);
      c.p.fillRect(cell, c.look.panel);
      if (!head.image.isNull()) {
        c.p.save();
        c.p.setRenderHint(QPainter::SmoothPixmapTransform, false);
        c.p.drawImage(cell, head.image);
        c.p.restore();
      }
      const bool chosen = l == input_.at.layer && h == input_.at.query_head;
      c.p.setBrush(Qt::NoBrush);
      c.p.setPen(QPen(kind_colour(head.facts.kind), side > 30 ? 2.5 : 1.2));
      c.p.drawRect(cell);
      if (chosen) {
        c.p.setPen(QPen(c.look.accent, 1.6, Qt::DashLine));
        c.p.drawRect(cell.adjusted(-3.5, -3.5, 3.5, 3.5));
      }
      c.hit(cell,
            QString("layer %1, q%2: %3; sink %4, local %5, entropy %6 bits, largest far weight %7")
                .arg(l)
                .arg(h)
                .arg(QString::fromStdString(head.facts.kind), QString::fromStdString(percent(head.facts.sink_mass)),
                     QString::fromStdString(percent(head.facts.local_mass)),
                     QString::fromStdString(short_number(head.facts.entropy_bits)),
                     QString::fromStdString(short_number(head.facts.largest))),
            [l, h](Selection& s) {
              s.layer = l;
              s.query_head = h;
            });
    }
  }
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) { return std::make_shared<Heads>(input, cancel); }

}  // namespace

namespace rows {
extern const ViewRow heads;
const ViewRow heads{.name = "heads",
                    .title = "Head grid",
                    .help = "Every head at a glance. Arrows or a click choose one; Enter opens its map.",
                    .place = 20,
                    .needs = Needs::trace,
                    .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
