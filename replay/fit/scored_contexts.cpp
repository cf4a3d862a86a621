#include <fmt/format.h>

#include "core/error.h"
#include "core/policy_line.h"
#include "replay/fit/learning.h"

namespace kvgrind::replay {

ScoredContexts::ScoredContexts(const std::vector<FitSequence>& sequences, const std::string& score)
    : score_(sim::bind_call("score", parse_call(score), score)) {
  std::set<std::pair<const RecordedRun*, std::int64_t>> seen;
  for (const FitSequence& sequence : sequences) {
    if (sequence.moment == 0 || !seen.insert({sequence.run.get(), root_sequence(*sequence.run, sequence.id)}).second)
      continue;
    for (const sim::Signal signal : std::get<const sim::ScoreRow*>(score_.row)->needs)
      if (!sequence.source->has(signal))
        throw Error(Category::usage,
                    {.doing = "fitting",
                     .on = fmt::format("sequence {}", sequence.id),
                     .found = fmt::format("no signal {}", sim::signal_name(signal)),
                     .expected = fmt::format("it: labels are the score {}", score),
                     .next = signal == sim::Signal::repeat_probe
                                 ? "record with --probes repeat"
                                 : "give --model FOLDER, or record more tokens so that W_O is stored"});
    contexts_.push_back({&sequence, std::make_unique<FitCache>(sequence)});
  }
}

ScoredContexts::Table ScoredContexts::table(std::int64_t layer) const {
  std::vector<Eigen::RowVectorXd> x, y;
  for (const One& one : contexts_) {
    const std::int64_t heads = one.sequence->run->card().kv_heads;
    const Rows features = one.sequence->features(layer);
    std::vector<std::vector<float>> s;
    for (std::int64_t g = 0; g < heads; ++g) s.push_back(one.cache->scores(score_, layer, g));
    for (Eigen::Index t = 0; t < features.rows(); ++t) {
      Eigen::RowVectorXd label(heads);
      for (std::int64_t g = 0; g < heads; ++g)
        label(g) = static_cast<double>(s[static_cast<std::size_t>(g)][static_cast<std::size_t>(t)]);
      if (!label.allFinite()) continue;  // before the context: always kept
      x.emplace_back(features.row(t).cast<double>());
      y.push_back(std::move(label));
    }
  }
  const auto rows = static_cast<Eigen::Index>(x.size());
  Table out{Eigen::MatrixXd(rows, x.empty() ? 0 : x[0].size()), Eigen::MatrixXd(rows, y.empty() ? 0 : y[0].size())};
  for (Eigen::Index t = 0; t < rows; ++t) {
    out.x.row(t) = x[static_cast<std::size_t>(t)];
    out.y.row(t) = y[static_cast<std::size_t>(t)];
  }
  return out;
}

}  // namespace kvgrind::replay
