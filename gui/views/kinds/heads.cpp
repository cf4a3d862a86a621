// Head grid: a small map of every layer and query head, framed by what kind of head it is.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "gui/models/head_order.h"
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
    recall_.assign(heads_.size(), std::numeric_limits<double>::quiet_NaN());
    if (sequence_of(input)->tokens > 0)
      parallel_for(card.layers * card.query_heads, [&](std::int64_t i) {
        cancel.throw_if_cancelled();
        const std::int64_t layer = i / card.query_heads, head = i % card.query_heads;
        Head& out = heads_[std::size_t(i)];
        out.facts = input.session->head_facts(input.at.sequence, layer, head, cancel);
        out.image = image_of(thumbnail(layer, head, cancel), input.map.colours);
        if (input.map.order == HeadOrder::recall)
          recall_[std::size_t(i)] = head_recall(input, layer, head, recall_queries);
      });
    std::vector<replay::HeadFacts> facts;
    for (const Head& head : heads_) facts.push_back(head.facts);
    order_ = ordered_heads(facts, recall_, input.map.order);
  }
  QString title() const override { return "Attention of every head"; }
  QString subtitle() const override {
    QString order = "a line per layer";
    if (input_.map.order == HeadOrder::entropy) order = "most spread heads first";
    if (input_.map.order == HeadOrder::sink) order = "heads with most weight on the first tokens first";
    if (input_.map.order == HeadOrder::recall)
      order = input_.jobs.empty() ? QString("in order of layers: no policy is shown whose recall could sort them")
                                  : "heads of which " + QString::fromStdString(input_.jobs.front().name) +
                                        " keeps least of the weight first";
    return QString(
               "%1, sequence %2; %3; largest weight of a cell, log scale 1e-5 to 1; "
               "kinds from up to 48 queries a head")
        .arg(QString::fromStdString(input_.session->run().card().name))
        .arg(input_.at.sequence)
        .arg(order);
  }
  std::string csv(const ViewState&) const override {
    Table table{.header = {"layer", "query_head", "kind", "sink_mass", "local_mass", "entropy_bits", "largest_far",
                           "queries", "recall"},
                .rows = {}};
    for (const std::size_t i : order_) {
      const replay::HeadFacts& facts = heads_[i].facts;
      table.rows.push_back({std::to_string(facts.layer), std::to_string(facts.query_head), facts.kind,
                            number(facts.sink_mass), number(facts.local_mass), number(facts.entropy_bits),
                            number(facts.largest), std::to_string(facts.queries), number(recall_[i])});
    }
    return table.csv();
  }
  // The small maps by layer and head, whatever their order on the picture. [L, Hq, cells, cells]
  Matrix matrix(const ViewState&) const override {
    const ModelCard& card = input_.session->run().card();
    Matrix out;
    if (sequence_of(input_)->tokens == 0) return out;
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t h = 0; h < card.query_heads; ++h) {
        const replay::Tile tile = thumbnail(l, h, {});
        out.shape = {card.layers, card.query_heads, tile.value.extent(0), tile.value.extent(1)};
        out.data.insert(out.data.end(), tile.value.data(), tile.value.data() + tile.value.size());
      }
    return out;
  }
  // Along the order there is; by layers the usual way does.
  bool move(int right, int down, Selection& s) const override {
    if (input_.map.order == HeadOrder::layer) return false;
    const std::int64_t across = input_.session->run().card().query_heads;
    const auto at = std::find(order_.begin(), order_.end(), std::size_t(s.layer * across + s.query_head));
    if (at == order_.end()) return false;
    const std::int64_t next = (at - order_.begin()) + right + down * across;
    if (next < 0 || next >= std::int64_t(order_.size())) return true;
    s.layer = std::int64_t(order_[std::size_t(next)]) / across;
    s.query_head = std::int64_t(order_[std::size_t(next)]) % across;
    return true;
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;

 private:
  static constexpr std::int64_t recall_queries = 8;
  replay::Tile thumbnail(std::int64_t layer, std::int64_t head, const CancelToken& cancel) const {
    return input_.session->thumbnail(input_.at.sequence, layer, head, thumbnail_side, cancel);
  }
  void draw_head(Canvas& c, const QRectF& cell, std::size_t index) const;
  ViewInput input_;
  std::vector<Head> heads_;
  std::vector<double> recall_;      // of the first policy shown; NaN where it was not asked for
  std::vector<std::size_t> order_;  // of heads_
};

void Heads::draw_head(Canvas& c, const QRectF& cell, std::size_t index) const {
  const Head& head = heads_[index];
  const std::int64_t across = input_.session->run().card().query_heads, l = std::int64_t(index) / across,
                     h = std::int64_t(index) % across;
  c.p.fillRect(cell, c.look.panel);
  if (!head.image.isNull()) {
    c.p.save();
    c.p.setRenderHint(QPainter::SmoothPixmapTransform, false);
    c.p.drawImage(cell, head.image);
    c.p.restore();
  }
  c.p.setBrush(Qt::NoBrush);
  c.p.setPen(QPen(kind_colour(head.facts.kind), cell.height() > 30 ? 2.5 : 1.2));
  c.p.drawRect(cell);
  if (l == input_.at.layer && h == input_.at.query_head) {
    c.p.setPen(QPen(c.look.accent, 1.6, Qt::DashLine));
    c.p.drawRect(cell.adjusted(-3.5, -3.5, 3.5, 3.5));
  }
  const auto share = [](double value) { return QString::fromStdString(percent(value)); };
  QString words = QString("layer %1, q%2: %3; sink %4, local %5, entropy %6 bits, largest far weight %7")
                      .arg(l)
                      .arg(h)
                      .arg(QString::fromStdString(head.facts.kind), share(head.facts.sink_mass),
                           share(head.facts.local_mass), QString::fromStdString(short_number(head.facts.entropy_bits)),
                           QString::fromStdString(short_number(head.facts.largest)));
  if (std::isfinite(recall_[index])) words += ", keeps " + share(recall_[index]) + " of the weight";
  c.hit(cell, words, [l, h](Selection& s) {
    s.layer = l;
    s.query_head = h;
  });
}

void Heads::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  if (sequence_of(input_)->tokens == 0) return draw_nothing(c, area, "This sequence has no tokens.");
  const ModelCard& card = input_.session->run().card();
  const bool sorted = input_.map.order != HeadOrder::layer;
  std::vector<LegendItem> legend;
  for (const char* kind : {"look-up", "local", "sink", "mixed"}) legend.push_back({kind, kind_colour(kind), 0});
  QRectF rest = area;
  rest.setTop(rest.top() + draw_legend(c, rest, legend) + 2);
  const QFont small = c.look.small();
  const double label = line_height(small), left = sorted ? 4 : text_width(small, "L00 ");
  const double across = (rest.width() - left) / double(card.query_heads);
  const double down = (rest.height() - (sorted ? 0 : label)) / double(card.layers);
  const double over = sorted ? label + 4 : 0;  // names stand above each
  const double side = std::max(4.0, std::min(across, down - over) - 8);
  const bool named = sorted && across > text_width(small, "L00 q00") && down > label + 12;
  for (std::int64_t h = 0; h < card.query_heads && !sorted; ++h)
    if (across > text_width(small, "q00") || h % 4 == 0)
      draw_text(c, QRectF(rest.left() + left + double(h) * across, rest.top() - 3, std::max(across, 30.0), label),
                QString("q%1").arg(h), small, c.look.faint, Qt::AlignLeft | Qt::AlignVCenter);
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::int64_t row = std::int64_t(i) / card.query_heads, column = std::int64_t(i) % card.query_heads;
    const double x = rest.left() + left + double(column) * across,
                 y = rest.top() + (sorted ? over : label) + double(row) * down;
    const std::int64_t layer = std::int64_t(order_[i]) / card.query_heads,
                       head = std::int64_t(order_[i]) % card.query_heads;
    if (!sorted && column == 0 && (down >= label || row % 4 == 0))
      draw_text(c, QRectF(rest.left(), y, left, std::max(side, label)), QString("L%1").arg(row), small, c.look.faint);
    if (named)
      draw_text(c, QRectF(x, y - label - 4, across, label), QString("L%1 q%2").arg(layer).arg(head), small,
                c.look.faint);
    draw_head(c, QRectF(x, y, std::min(across - 8, 1.7 * side), side), order_[i]);
  }
}

ScenePtr load(const ViewInput& input, const CancelToken& cancel) { return std::make_shared<Heads>(input, cancel); }

}  // namespace

namespace rows {
extern const ViewRow heads;
const ViewRow heads{.name = "heads",
                    .title = "Head grid",
                    .help =
                        "Every head at a glance. Arrows or a click choose one; Enter opens its map; S sorts by "
                        "layer, entropy, weight on the first tokens, or what the first policy keeps.",
                    .place = 20,
                    .needs = Needs::trace,
                    .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
