// Dashboard: what was recorded, what the results say in one sentence, warnings, and a small Pareto plot.
#include "core/json.h"
#include "gui/models/table.h"
#include "gui/views/pareto_plot.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

struct Card {
  QString title, view;  // the view that shows more of it
  std::vector<std::pair<QString, QString>> lines;
};

class Dashboard final : public Scene {
 public:
  explicit Dashboard(const ViewInput& input) : input_(input) {
    if (input.rows && !input.rows->empty()) {
      data_ = pareto_data(*input.rows, input.results_x, input.results_y);
      mark_shown(data_, input.jobs, input.at.jobs);
    }
    if (input.session) add_trace_cards();
    add_result_card();
  }
  QString title() const override {
    return input_.session
               ? QString::fromStdString(input_.session->run().card().name) + ": the recording and its results"
               : "Results";
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override;
  std::string json() const override;
  std::string csv(const ViewState&) const override {
    Table table{.header = {"card", "key", "value"}, .rows = {}};
    for (const Card& card : cards_)
      for (const auto& [key, value] : card.lines)
        table.rows.push_back({card.title.toStdString(), key.toStdString(), value.toStdString()});
    table.rows.push_back({"verdict", "", data_.verdict});
    return table.csv();
  }

 private:
  void add_trace_cards();
  void add_result_card();
  double paint_card(Canvas& c, const QRectF& area, const Card& card) const;

  ViewInput input_;
  ParetoData data_;
  std::vector<Card> cards_;
  std::vector<QString> warnings_;
};

std::string Dashboard::json() const {
  json::object cards;
  for (const Card& card : cards_) {
    json::object& lines = cards[card.title.toStdString()].emplace_object();
    for (const auto& [key, value] : card.lines) lines[key.toStdString()] = value.toStdString();
  }
  json::array warnings;
  for (const QString& warning : warnings_) warnings.emplace_back(warning.toStdString());
  return json_text(json::object{{"schema", "kvgrind.dashboard.1"},
                                {"title", title().toStdString()},
                                {"verdict", data_.verdict},
                                {"cards", cards},
                                {"warnings", warnings}}) +
         "\n";
}

void Dashboard::add_trace_cards() {
  const replay::RecordedRun& run = input_.session->run();
  const ModelCard& card = run.card();
  cards_.push_back({"Model",
                    "heads",
                    {{"family", QString::fromStdString(card.family)},
                     {"layers", QString::number(card.layers)},
                     {"heads", QString("%1 query, %2 KV").arg(card.query_heads).arg(card.kv_heads)},
                     {"head dimension", QString::number(card.head_dim)},
                     {"cache of a token", QString::fromStdString(bytes_text(double(card.kv_bytes_per_token())))}}});
  std::int64_t tokens = 0, longest = 0;
  for (const traces::SequenceInfo& info : run.sequences()) {
    tokens += info.own_rows;
    longest = std::max(longest, info.tokens);
  }
  Card recording{"Recording",
                 "text",
                 {{"sequences", QString::number(run.sequences().size())},
                  {"tokens", QString::number(tokens)},
                  {"longest", QString("%1 tokens").arg(longest)},
                  {"its full cache", QString::fromStdString(bytes_text(double(longest * card.kv_bytes_per_token())))},
                  {"trace", QString::fromStdString(run.hash())}}};
  if (const traces::Trace* trace = input_.session->trace()) {
    const bool whole = trace->state() == traces::TraceState::complete;
    recording.lines.emplace_back("state", whole ? QString("complete")
                                                : QString("not closed properly; %1 of about %2 tokens are intact")
                                                      .arg(trace->rows())
                                                      .arg(trace->announced_rows()));
    if (!whole) warnings_.push_back("The recording was not closed properly: `kvgrind repair` makes a clean copy.");
    for (const std::string& absent : trace->not_recorded()) warnings_.push_back(QString::fromStdString(absent));
  }
  cards_.push_back(std::move(recording));
}

void Dashboard::add_result_card() {
  Card card{"Results", "pareto", {}};
  if (data_.series.empty()) {
    card.lines.emplace_back("jobs", "none yet: add a policy or open a results file");
  } else {
    card.lines.emplace_back("jobs", QString::number(input_.rows->size()));
    card.lines.emplace_back("policies", QString::number(data_.series.size()));
    card.lines.emplace_back("prompts", QString::number(data_.prompts));
    card.lines.emplace_back("protocol", QString::fromStdString(data_.protocol) +
                                            (data_.protocol == "aware" ? ", question seen" : ", question not seen"));
    card.lines.emplace_back("headline", QString::fromStdString(data_.y));
  }
  cards_.push_back(std::move(card));
  for (const std::string& warning : data_.warnings) warnings_.push_back(QString::fromStdString(warning));
}

double Dashboard::paint_card(Canvas& c, const QRectF& area, const Card& card) const {
  const double height = line_height(c.look.font) + 2;
  const double whole = height * double(card.lines.size() + 1) + 18;
  const QRectF box(area.left(), area.top(), area.width(), whole);
  c.p.setPen(QPen(c.look.grid, 1));
  c.p.setBrush(c.look.panel);
  c.p.drawRoundedRect(box, 4, 4);
  c.hit(box, [view = card.view](QPointF) -> std::optional<Hit> {
    return Hit{QString("a click opens the view %1").arg(view_named(view.toStdString()).title), {}, view.toStdString()};
  });
  const QRectF inside = box.adjusted(12, 8, -12, -8);
  draw_text(c, QRectF(inside.left(), inside.top(), inside.width(), height), card.title, c.look.bold(), c.look.ink);
  double y = inside.top() + height + 2;
  const double key_width = std::min(inside.width() * 0.55, text_width(c.look.font, "cache of a token") + 14);
  for (const auto& [key, value] : card.lines) {
    draw_text(c, QRectF(inside.left(), y, key_width, height), key, c.look.font, c.look.faint);
    draw_text(c, QRectF(inside.left() + key_width, y, inside.width() - key_width, height), value, c.look.font,
              c.look.ink);
    y += height;
  }
  return whole;
}

void Dashboard::paint(Canvas& c, const QRectF& area, const ViewState&) const {
  const bool plot = !data_.series.empty();
  const double left = plot ? std::min(420.0, area.width() * 0.42) : area.width();
  double y = area.top();
  for (const Card& card : cards_) y += paint_card(c, QRectF(area.left(), y, left, area.bottom() - y), card) + 10;
  if (!warnings_.empty() && y + 60 < area.bottom()) {
    draw_text(c, QRectF(area.left() + 12, y, left, line_height(c.look.bold())),
              QString("%1 %2").arg(warnings_.size()).arg(warnings_.size() == 1 ? "warning" : "warnings"), c.look.bold(),
              c.look.accent);
    y += line_height(c.look.bold()) + 3;
    for (const QString& warning : warnings_) {
      const QRectF place(area.left() + 12, y, left - 24, area.bottom() - y);
      const QRectF needed = QFontMetricsF(c.look.small()).boundingRect(place, Qt::TextWordWrap, warning);
      if (y + needed.height() > area.bottom() - line_height(c.look.small())) {
        draw_text(c, QRectF(place.left(), y, place.width(), line_height(c.look.small())), "and more (see the log)",
                  c.look.small(), c.look.faint);
        break;
      }
      y += draw_paragraph(c, place, warning, c.look.small(), c.look.ink) + 3;
    }
  }
  if (!plot) return;
  QRectF right = area.adjusted(left + 20, 0, 0, 0);
  const QString verdict =
      data_.verdict.empty() ? QString("Nothing is ranked yet.") : QString::fromStdString(data_.verdict);
  right.setTop(right.top() + draw_paragraph(c, right, verdict, c.look.bold(1.05), c.look.ink) + 10);
  c.hit(right, [](QPointF) -> std::optional<Hit> { return Hit{"a click opens the Pareto front", {}, "pareto"}; });
  draw_pareto(c, right, data_, false);
}

ScenePtr load(const ViewInput& input, const CancelToken&) { return std::make_shared<Dashboard>(input); }

}  // namespace

namespace rows {
extern const ViewRow dashboard;
const ViewRow dashboard{.name = "dashboard",
                        .title = "Dashboard",
                        .help = "What was recorded, and what the results say in one sentence. A card opens its view.",
                        .place = 10,
                        .needs = Needs::rows,
                        .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
