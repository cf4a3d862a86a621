// Pareto front: loss against bytes of every policy and budget, with intervals over prompts.
#include <algorithm>
#include <tuple>

#include "gui/views/pareto_plot.h"
#include "gui/views/scene.h"

namespace kvgrind::gui {
namespace {

class Pareto final : public Scene {
 public:
  Pareto(const ViewInput& input, ParetoData data) : data_(std::move(data)), chosen_(input.at.jobs) {}
  QString title() const override { return QString("%1 against %2").arg(axis_words(data_.y), axis_words(data_.x)); }
  QString subtitle() const override {
    return QString(
               "%1 loop, %2 (%3); %4 prompts; bars are 95 % bootstrap intervals; grey band: the front; dashed: "
               "references%5")
        .arg(QString::fromStdString(data_.loop), QString::fromStdString(data_.protocol),
             data_.protocol == "aware" ? "the policy saw the question" : "the policy did not see the question")
        .arg(data_.prompts)
        .arg(chosen_.empty() ? QString() : QString("; %1 chosen").arg(chosen_.size()));
  }
  std::string csv(const ViewState&) const override {
    return data_.series.empty() ? std::string() : pareto_table(data_).csv();
  }
  void paint(Canvas& c, const QRectF& area, const ViewState&) const override { draw_pareto(c, area, data_, true); }

  // Right and left along a policy's budgets, down and up from policy to policy.
  bool move(int right, int down, Selection& s) const override;

 private:
  ParetoData data_;
  std::vector<std::string> chosen_;
};

bool Pareto::move(int right, int down, Selection& s) const {
  if (data_.series.empty()) return true;
  std::int64_t row = -1, column = 0;
  for (std::size_t i = 0; i < data_.series.size(); ++i)
    for (std::size_t j = 0; j < data_.series[i].points.size(); ++j)
      if (data_.series[i].points[j].chosen) std::tie(row, column) = std::pair(std::int64_t(i), std::int64_t(j));
  const auto rows = std::int64_t(data_.series.size());
  row = row < 0 ? 0 : std::clamp<std::int64_t>(row + down, 0, rows - 1);
  const ParetoSeries& series = data_.series[std::size_t(row)];
  const auto columns = std::int64_t(series.points.size());
  column = std::clamp<std::int64_t>(column + right, 0, columns - 1);
  s.jobs = {job_key(series.name, series.points[std::size_t(column)].asked)};
  return true;
}

ScenePtr load(const ViewInput& input, const CancelToken&) {
  if (!input.rows || input.rows->empty())
    return words_scene("Pareto front", "No results yet. Add a policy, or open a results file beside the trace.");
  ParetoData data = pareto_data(*input.rows, input.results_x, input.results_y);
  mark_shown(data, input.jobs, input.at.jobs);
  return std::make_shared<Pareto>(input, std::move(data));
}

}  // namespace

namespace rows {
extern const ViewRow pareto;
const ViewRow pareto{.name = "pareto",
                     .title = "Pareto front",
                     .help =
                         "Loss against bytes of every policy and budget. Point at a mark to read it; a click or the "
                         "arrows choose a job for all views, Shift adds one, Enter replays what is chosen here. X "
                         "changes what stands across, M the figure.",
                     .place = 60,
                     .needs = Needs::rows,
                     .load = load};
}  // namespace rows

}  // namespace kvgrind::gui
