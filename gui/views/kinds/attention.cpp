// Attention map of one head: queries down, keys across, from a pyramid of tiles; only the causal area is drawn.
#include <cmath>

#include "gui/models/table.h"
#include "gui/models/tile_pyramid.h"
#include "gui/views/raster.h"

namespace kvgrind::gui {
namespace {

constexpr double label_pixels = 12;  // of a token, from which its text is shown
constexpr double strip_step = 13;

class Attention final : public Scene {
 public:
  explicit Attention(const ViewInput& input) : input_(input), tokens_(sequence_of(input)->tokens) {
    if (!input.base || !input.map.difference) return;
    const replay::RecordedRun& run = input.base->run();
    for (const traces::SequenceInfo& info : run.sequences())
      difference_ = difference_ || (info.id == input.at.sequence && info.tokens == tokens_ &&
                                    input.at.layer < run.card().layers && input.at.query_head < run.card().query_heads);
  }

  QString title() const override {
    const ModelCard& card = input_.session->run().card();
    return QString(difference_ ? "Attention against the other trace, layer %1, query head q%2 (kv%3)"
                               : "Attention, layer %1, query head q%2 (kv%3)")
        .arg(input_.at.layer)
        .arg(input_.at.query_head)
        .arg(input_.at.query_head / card.group());
  }
  QString subtitle() const override {
    const QRectF all = shown({});
    const char* pool = input_.map.pool == replay::Pool::max    ? "largest weight of a cell"
                       : input_.map.pool == replay::Pool::mean ? "mean weight of a cell"
                                                               : "summed weight of a cell";
    return QString("%1, sequence %2; showing queries %3:%4 and keys %5:%6 of %7; %8")
        .arg(QString::fromStdString(input_.session->run().card().name))
        .arg(input_.at.sequence)
        .arg(qlonglong(all.top()))
        .arg(qlonglong(all.bottom()))
        .arg(qlonglong(all.left()))
        .arg(qlonglong(all.right()))
        .arg(tokens_)
        .arg(pool);
  }
  QRectF extent() const override { return QRectF(0, 0, double(tokens_), double(tokens_)); }
  void paint(Canvas& c, const QRectF& area, const ViewState& state) const override;
  std::string csv(const ViewState& state) const override;
  Matrix matrix(const ViewState& state) const override {
    replay::TileRequest request;
    return shown(state).isEmpty() ? Matrix() : matrix_of(tile(state, request).value);
  }

 private:
  struct Picture {
    QImage image;    // of codes
    QString origin;  // of its coarsest part
    bool whole = true;
  };
  QRectF shown(const ViewState& state) const;
  Picture compose(Canvas& c, const std::shared_ptr<TilePyramid>& tiles, int level, std::int64_t r0, std::int64_t r1,
                  std::int64_t c0, std::int64_t c1) const;
  TileKey key(int level, std::int64_t row, std::int64_t column) const {
    return {input_.at.sequence, input_.at.layer, input_.at.query_head, input_.map.pool, level, row, column};
  }
  QString token(std::int64_t at) const {
    if (!input_.text || at < 0 || at >= static_cast<std::int64_t>(input_.text->size())) return {};
    return QString::fromStdString(token_label((*input_.text)[static_cast<std::size_t>(at)], 14));
  }
  QString hover(const HeatAxes& axes, int level, QPointF at) const;
  void strips(Canvas& c, const HeatAxes& axes) const;

  replay::Tile tile(const ViewState& state, replay::TileRequest& request) const;
  void colour(QImage& codes) const;
  ViewInput input_;
  std::int64_t tokens_;
  bool difference_ = false;  // this trace against the base, in shades
};

QRectF Attention::shown(const ViewState& state) const {
  if (!state.window.isEmpty()) return state.window.intersected(extent());
  QRectF out = extent();
  if (!input_.map.follow) return out;
  const Selection& at = input_.at;
  if (!at.key.empty()) {
    out.setLeft(double(at.key.begin));
    out.setRight(double(at.key.end));
  }
  if (!at.query.empty()) {
    out.setTop(double(at.query.begin));
    out.setBottom(double(at.query.end));
  }
  return out;
}

// Cells [r0, r1) × [c0, c1) of a level; what is not there yet comes from coarser levels, or stays blank.
Attention::Picture Attention::compose(Canvas& c, const std::shared_ptr<TilePyramid>& tiles, int level, std::int64_t r0,
                                      std::int64_t r1, std::int64_t c0, std::int64_t c1) const {
  Picture out;
  out.image = QImage(int(c1 - c0), int(r1 - r0), QImage::Format_Indexed8);
  out.image.fill(0);
  const int top = TilePyramid::top_level(tokens_);
  for (std::int64_t tr = r0 / tile_side; tr * tile_side < r1; ++tr)
    for (std::int64_t tc = c0 / tile_side; tc * tile_side < c1 && tc <= tr; ++tc) {
      int from = level;
      std::shared_ptr<const ShadedTile> tile = tiles->find(key(level, tr, tc));
      if (!tile) {
        c.wanted.push_back(
            [tiles, k = key(level, tr, tc)](const CancelToken& cancel) { (void)tiles->load(k, cancel); });
        out.whole = false;
        while (!tile && from < top) {
          ++from;
          tile = tiles->find(key(from, tr >> (from - level), tc >> (from - level)));
        }
      }
      if (!tile) continue;
      if (out.origin.isEmpty() || tile->tile.source != replay::TileSource::exact)
        out.origin = QString::fromStdString(tile->tile.origin);
      const auto& codes = input_.map.log ? tile->log_code : tile->linear_code;
      const int down = from - level;
      const std::int64_t rows = tile->tile.value.extent(0), columns = tile->tile.value.extent(1);
      const std::int64_t row_base = ((tr >> down) << down) * tile_side,
                         column_base = ((tc >> down) << down) * tile_side;
      for (std::int64_t r = std::max(r0, tr * tile_side); r < std::min(r1, (tr + 1) * tile_side); ++r) {
        const std::int64_t source_row = (r - row_base) >> down;
        if (source_row >= rows) break;
        uchar* line = out.image.scanLine(int(r - r0));
        for (std::int64_t x = std::max(c0, tc * tile_side); x < std::min(c1, (tc + 1) * tile_side); ++x) {
          const std::int64_t source_column = (x - column_base) >> down;
          if (source_column >= columns) break;
          line[x - c0] = codes[static_cast<std::size_t>(source_row * columns + source_column)];
        }
      }
    }
  return out;
}

void Attention::colour(QImage& codes) const {
  const ColourTable& table = difference_ ? diverging_table() : colour_table(input_.map.colours);
  QList<QRgb> colours(256, 0);
  for (int i = 1; i < 254; ++i) colours[i] = table[static_cast<std::size_t>((i - 1) * 255 / 252)];
  colours[code_absent] = qRgba(128, 128, 128, 60);
  colours[code_nan] = nan_colour;
  codes.setColorTable(colours);
}

// Codes of b − a around the middle; what either lacks stays as it is.
void subtract(QImage& b, const QImage& a) {
  for (int r = 0; r < b.height(); ++r) {
    uchar* line = b.scanLine(r);
    const uchar* other = a.constScanLine(r);
    for (int x = 0; x < b.width(); ++x) {
      const bool value = line[x] != code_blank && line[x] < code_absent;
      if (value && other[x] != code_blank && other[x] < code_absent)
        line[x] = uchar(127 + (int(line[x]) - int(other[x])) / 2);
      else if (value)
        line[x] = other[x];
    }
  }
}

// Which keys each job still holds, a strip a job above the map.
void Attention::strips(Canvas& c, const HeatAxes& axes) const {
  const std::int64_t group = input_.session->run().card().group();
  double y = axes.plot.top() - 8;
  for (const ShownJob& job : input_.jobs) {
    if (!job.view || job.view->outcome.k_states.empty()) continue;
    const auto& layer = job.view->outcome.k_states[static_cast<std::size_t>(input_.at.layer)];
    const std::int64_t head = static_cast<std::int64_t>(layer.size()) > input_.session->run().card().kv_heads
                                  ? input_.at.query_head
                                  : input_.at.query_head / group;
    const auto& states = layer[static_cast<std::size_t>(head)];
    const int pixels = std::max(1, int(axes.plot.width() * c.look.device_pixels));
    QImage image(pixels, 1, QImage::Format_ARGB32);
    const QColor colour = QColor::fromRgb(job_colour(job.colour));
    for (int x = 0; x < pixels; ++x) {  // opaque where all are kept, faint where few are
      const double a = axes.x0 + (axes.x1 - axes.x0) * x / pixels, b = axes.x0 + (axes.x1 - axes.x0) * (x + 1) / pixels;
      std::int64_t kept = 0, all = 0;
      for (auto t = std::int64_t(a); t < std::max(std::int64_t(std::ceil(b)), std::int64_t(a) + 1) && t < tokens_;
           ++t) {
        ++all;
        kept += states[static_cast<std::size_t>(t)] % 16 != 0 && states[static_cast<std::size_t>(t)] % 16 != 5;
      }
      image.setPixel(x, 0, qRgba(colour.red(), colour.green(), colour.blue(), all ? int(255 * kept / all) : 0));
    }
    const QRectF strip(axes.plot.left(), y - 5, axes.plot.width(), 5);
    c.p.fillRect(strip, c.look.panel);
    c.p.drawImage(strip, image);
    const QFont small = c.look.small();
    draw_text(c,
              QRectF(strip.right() + 6, strip.center().y() - line_height(small) / 2, colour_bar_width + 20,
                     line_height(small)),
              QString::fromStdString(job.asked.policy), small, job_ink(c.look, job.colour));
    c.hit(strip.adjusted(0, -1, 0, 1), [this, axes, &job, states](QPointF at) -> std::optional<Hit> {
      const auto k = std::int64_t(axes.column(at.x()));
      if (k < 0 || k >= tokens_) return std::nullopt;
      return Hit{QString("%1: key %2 %3")
                     .arg(QString::fromStdString(job.name))
                     .arg(k)
                     .arg(state_name(states[static_cast<std::size_t>(k)])),
                 [k](Selection& s) { s.key_at = k; }};
    });
    y -= strip_step;
  }
}

QString Attention::hover(const HeatAxes& axes, int level, QPointF at) const {
  const std::int64_t cell = 1ll << level;
  const auto q = std::int64_t(axes.row(at.y())) / cell * cell, k = std::int64_t(axes.column(at.x())) / cell * cell;
  const auto range = [&](std::int64_t begin) {
    return cell == 1 ? QString::number(begin) : QString("%1:%2").arg(begin).arg(std::min(tokens_, begin + cell));
  };
  QString text = QString("query %1 %2, key %3 %4").arg(range(q), token(q), range(k), token(k));
  if (k > q + cell - 1) return text + ": not visible (causal)";
  const auto tile = input_.tiles->find(key(level, q / cell / tile_side, k / cell / tile_side));
  if (!tile) return text + ": on its way";
  const std::int64_t r = q / cell % tile_side, x = k / cell % tile_side;
  if (r >= tile->tile.value.extent(0) || x >= tile->tile.value.extent(1)) return text;
  if (!tile->tile.recorded[static_cast<std::size_t>(r)]) return text + ": query not recorded";
  text += QString(": %1 (%2)")
              .arg(QString::fromStdString(short_number(double(tile->tile.value(r, x)))),
                   QString::fromStdString(tile->tile.origin));
  if (!difference_) return text;
  const auto base = input_.base_tiles->find(key(level, q / cell / tile_side, k / cell / tile_side));
  return text + (base ? QString(", in the other trace %1")
                            .arg(QString::fromStdString(short_number(double(base->tile.value(r, x)))))
                      : QString(", the other trace on its way"));
}

void Attention::paint(Canvas& c, const QRectF& area, const ViewState& state) const {
  const QRectF window = shown(state);
  if (window.isEmpty()) return draw_nothing(c, area, "This sequence has no tokens.");
  const std::size_t strip_count = input_.map.overlay ? std::min<std::size_t>(input_.jobs.size(), 4) : 0;
  HeatAxes axes{
      .plot = heat_plot_area(c, area.adjusted(0, strip_step * double(strip_count) + 2, 0, 0), colour_bar_width),
      .x0 = window.left(),
      .x1 = window.right(),
      .y0 = window.top(),
      .y1 = window.bottom(),
      .x_title = "key position",
      .y_title = "query position"};
  axes.plot.setWidth(std::min(axes.plot.width(), 1.5 * axes.plot.height()));
  const double across = axes.plot.width() / window.width(), down = axes.plot.height() / window.height();
  const bool labels = across >= label_pixels && down >= label_pixels && input_.text && !input_.text->empty();
  if (labels) axes.plot.setBottom(axes.plot.bottom() - 60);
  const int level =
      TilePyramid::level_for(std::min(across, axes.plot.height() / window.height()) * c.look.device_pixels);
  const double cell = double(1ll << level);

  const std::int64_t c0 = std::int64_t(window.left() / cell), c1 = std::int64_t(std::ceil(window.right() / cell));
  const std::int64_t r0 = std::int64_t(window.top() / cell), r1 = std::int64_t(std::ceil(window.bottom() / cell));
  Picture picture = compose(c, input_.tiles, level, r0, r1, c0, c1);
  if (difference_) {
    const Picture base = compose(c, input_.base_tiles, level, r0, r1, c0, c1);
    subtract(picture.image, base.image);
    picture.whole = picture.whole && base.whole;
  }
  colour(picture.image);
  c.p.fillRect(axes.plot, c.look.panel);
  c.p.save();
  c.p.setClipRect(axes.plot, Qt::IntersectClip);
  const QRectF target(QPointF(axes.x(double(c0) * cell), axes.y(double(r0) * cell)),
                      QPointF(axes.x(double(c1) * cell), axes.y(double(r1) * cell)));
  c.p.drawImage(target, picture.image);
  c.p.setPen(QPen(c.look.accent, 1));
  if (input_.at.key_at >= 0) {
    const double x = axes.x(double(input_.at.key_at) + 0.5);
    c.p.drawLine(QPointF(x, axes.plot.top()), QPointF(x, axes.plot.bottom()));
  }
  if (input_.at.query_at >= 0) {
    const double y = axes.y(double(input_.at.query_at) + 0.5);
    c.p.drawLine(QPointF(axes.plot.left(), y), QPointF(axes.plot.right(), y));
  }
  c.p.restore();
  draw_ranges(c, axes, input_, true);

  AxisLabels texts;
  if (labels) {
    const QFont small = c.look.small();
    for (auto t = std::int64_t(window.top()); t < std::int64_t(window.bottom()); ++t)
      texts.y.emplace_back(double(t) + 0.5, token(t));
    for (auto t = std::int64_t(window.left()); t < std::int64_t(window.right()); ++t) {
      c.p.save();
      c.p.translate(axes.x(double(t) + 0.5), axes.plot.bottom() + 6);
      c.p.rotate(60);
      draw_text(c, QRectF(0, -line_height(small) / 2, 74, line_height(small)), token(t), small, c.look.ink);
      c.p.restore();
    }
    texts.x.emplace_back(-1.0, QString());  // no numbers below the texts
    HeatAxes titled = axes;
    titled.x_title.clear();
    draw_axes(c, titled, texts);
    draw_text(c, QRectF(axes.plot.left(), area.bottom() - line_height(small), axes.plot.width(), line_height(small)),
              axes.x_title, small, c.look.faint, Qt::AlignCenter);
  } else {
    draw_axes(c, axes);
  }
  if (input_.map.overlay) strips(c, axes);
  const double high = input_.map.pool == replay::Pool::sum ? cell : 1.0;
  if (difference_)
    draw_colour_bar(c, axes.plot, diverging_table(), input_.map.log ? std::log10(double(attention_low) / high) : -high,
                    input_.map.log ? -std::log10(double(attention_low) / high) : high, false,
                    input_.map.log ? "decades" : "weight");
  else
    draw_colour_bar(c, axes.plot, colour_table(input_.map.colours), input_.map.log ? double(attention_low) : 0.0, high,
                    input_.map.log, "weight");
  const QString note = QString("cells of %1 × %1; %2%3")
                           .arg(1ll << level)
                           .arg(picture.origin.isEmpty() ? QString("computing") : picture.origin)
                           .arg(picture.whole ? "" : ", finer tiles on their way");
  const double note_width = text_width(c.look.small(), note) + 8;
  const QRectF place(axes.plot.right() - note_width - 6, axes.plot.top() + 6, note_width, line_height(c.look.small()));
  draw_text(c, place, note, c.look.small(), c.look.faint, Qt::AlignRight | Qt::AlignVCenter);
  c.plot = axes.plot;
  c.shown = window;
  c.hit(axes.plot, [this, axes, level](QPointF at) -> std::optional<Hit> {
    const auto q = std::int64_t(axes.row(at.y())), k = std::int64_t(axes.column(at.x()));
    return Hit{hover(axes, level, at), [q, k](Selection& s) {
                 s.query_at = q;
                 s.key_at = k;
               }};
  });
}

// What is shown, in at most 512 × 512 cells.
replay::Tile Attention::tile(const ViewState& state, replay::TileRequest& request) const {
  const QRectF window = shown(state);
  request = {.sequence = input_.at.sequence,
             .layer = input_.at.layer,
             .query_head = input_.at.query_head,
             .query_begin = std::int64_t(window.top()),
             .query_end = std::min(tokens_, std::int64_t(std::ceil(window.bottom()))),
             .key_begin = std::int64_t(window.left()),
             .key_end = std::min(tokens_, std::int64_t(std::ceil(window.right()))),
             .pool = input_.map.pool};
  while (std::max(window.width(), window.height()) / double(request.cell) > 512) request.cell *= 2;
  return input_.session->attention_tile(request);
}

std::string Attention::csv(const ViewState& state) const {
  if (shown(state).isEmpty()) return "query,key,cell,weight\n";
  replay::TileRequest request;
  const replay::Tile tile = this->tile(state, request);
  Table table{.header = {"query", "key", "cell", "weight"}, .rows = {}};
  for (std::int64_t r = 0; r < tile.value.extent(0); ++r)
    for (std::int64_t x = 0; x < tile.value.extent(1); ++x) {
      const std::int64_t q = request.query_begin + r * request.cell, k = request.key_begin + x * request.cell;
      if (k <= q + request.cell - 1)
        table.rows.push_back(
            {std::to_string(q), std::to_string(k), std::to_string(request.cell), number(double(tile.value(r, x)))});
    }
  return table.csv();
}

ScenePtr load(const ViewInput& input, const CancelToken&) { return std::make_shared<Attention>(input); }

}  // namespace

namespace rows {
extern const ViewRow attention;
const ViewRow attention{.name = "attention",
                        .title = "Attention map",
                        .help =
                            "Queries down, keys across. Wheel zooms at the pointer, dragging pans, Shift+drag zooms "
                            "to a box. P changes pooling, L the scale, C the colours, O the strips of kept keys.",
                        .place = 30,
                        .needs = Needs::trace,
                        .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
