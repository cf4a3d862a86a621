// Pareto front: loss against bytes of every policy and budget, with intervals over prompts.
#include "gui/views/pareto_plot.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

class Pareto final : public Scene {
 public:
  explicit Pareto(ParetoData data) : data_(std::move(data)) {}
  QString title() const override { return QString("%1 against %2").arg(axis_words(data_.y), axis_words(data_.x)); }
  QString subtitle() const override {
    return QString(
               "%1 loop, %2 (%3); %4 prompts; bars are 95 % bootstrap intervals; grey band: the front; dashed: "
               "references")
        .arg(QString::fromStdString(data_.loop), QString::fromStdString(data_.protocol),
             data_.protocol == "aware" ? "the policy saw the question" : "the policy did not see the question")
        .arg(data_.prompts);
  }
  std::string csv(const ViewState&) const override {
    return data_.series.empty() ? std::string() : pareto_table(data_).csv();
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override { draw_pareto(c, area, data_, true); }

 private:
  ParetoData data_;
};

ScenePtr load(const ViewInput& input, const CancelToken&) {
  if (!input.rows || input.rows->empty())
    return words_scene("Pareto front", "No results yet. Add a policy, or open a results file beside the trace.");
  return std::make_shared<Pareto>(pareto_data(*input.rows, input.results_x, input.results_y));
}

}  // namespace

namespace rows {
extern const ViewRow pareto;
const ViewRow pareto{.name = "pareto",
                     .title = "Pareto front",
                     .help = "Loss against bytes of every policy and budget. Point at a mark to read it.",
                     .place = 60,
                     .needs = Needs::rows,
                     .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
