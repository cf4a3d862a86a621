// What an open-loop figure could be made of, and the truth beside it: one CSV row per answer token × policy × amount.
//   predictor_rows MODEL HAYSTACK TASK PROMPTS LENGTH SEED blind|multi POLICIES.txt AMOUNT[,AMOUNT…] > rows.csv
// Columns: cell (policy, amount), prompt, question, token; p_full and p, the right token's probability with the full
// cache and with the policy's (closed loop); lost and strong as in replay/metrics/README.md, near and far apart, summed
// over layers and heads; kept and mass; one column a layer of ‖W_O(o′ − o)‖ / ‖x‖. predictor_study.py reads them.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <sstream>

#include "core/parallel.h"
#include "replay/open_loop/open_loop.h"
#include "replay/open_loop/recorded_run.h"
#include "replay/record/record.h"
#include "replay/validate/validate.h"
#include "sim/model/runtime.h"
#include "traces/kvt/trace.h"

using namespace kvgrind;
using namespace kvgrind::replay;

namespace {

std::string text_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Rows {
  TallyTable table;
  std::vector<std::int64_t> answer;
};

Rows open_rows(const SequenceData& data, const OpenJob& job) {
  Rows out;
  OpenOptions options;
  options.on_rows = [&](const TallyTable& table, const std::vector<MeasuredSet>& sets) {
    out.table = table;
    for (const MeasuredSet& set : sets)
      if (set.name == "answer") out.answer = set.rows;
  };
  (void)run_open(data, job, options);
  return out;
}

std::string line(const Rows& rows, std::int64_t row, const AnswerToken& token) {
  MassTally near, far;
  const auto& all = rows.table.rows;
  for (std::int64_t l = 0; l < all.extent(0); ++l)
    for (std::int64_t h = 0; h < all.extent(1); ++h) {
      const RowTally& one = all(l, h, row);
      for (auto [to, from] : {std::pair(&near, &one.near), std::pair(&far, &one.far)}) {
        to->mass += from->mass;
        to->kept += from->kept;
        to->lost += from->lost;
        to->strong += from->strong;
      }
    }
  std::string out = fmt::format("{:.6g},{:.6g},{:.5g},{:.5g},{:.5g},{:.5g},{:.5g},{:.5g}", std::exp(-token.nll_full),
                                std::exp(-token.nll), near.lost, near.strong, far.lost, far.strong,
                                near.kept + far.kept, near.mass + far.mass);
  for (std::int64_t l = 0; l < all.extent(0); ++l)
    out += fmt::format(",{:.5g}", rows.table.shift(l, row) / rows.table.residual(l, row));
  return out;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 10) {
    std::cerr << "predictor_rows MODEL HAYSTACK TASK PROMPTS LENGTH SEED blind|multi POLICIES.txt AMOUNT[,AMOUNT…]\n";
    return 2;
  }
  const traces::ModelFolder folder = traces::read_model_folder(argv[1]);
  const std::shared_ptr<const sim::Model> model = sim::build_model(folder.config, folder.weights);
  const std::int64_t layers = sim::model_config(*model).card.layers;
  const Suite suite =
      make_suite(argv[3], {.seed = std::stoull(argv[6]), .prompts = std::stoll(argv[4]), .length = std::stoll(argv[5])},
                 *folder.tokenizer, text_of(argv[2]));
  const Turns turns = turns_from_name(argv[7]);
  std::vector<sim::PolicyPtr> policies;
  std::istringstream lines(text_of(argv[8]));
  for (std::string policy; std::getline(lines, policy);)
    if (!policy.empty()) policies.push_back(sim::bind_policy(policy));
  std::vector<sim::Amount> amounts;
  std::istringstream list(argv[9]);
  for (std::string amount; std::getline(list, amount, ',');) amounts.push_back(sim::parse_amount(amount));

  std::cout << "policy,amount,prompt,question,token,p_full,p,near_lost,near_strong,far_lost,far_strong,kept,mass";
  for (std::int64_t l = 0; l < layers; ++l) std::cout << ",shift" << l;
  std::cout << "\n";
  const auto file = std::filesystem::temp_directory_path() / fmt::format("predictor-{}-{}.kvt", argv[3], argv[7]);
  for (std::size_t p = 0; p < suite.prompts.size(); ++p) {
    RecordJob job{.model = &folder, .sequences = sequences_of(suite, turns, p, p + 1), .out = file};
    job.options.queries = traces::QueryContent::window;
    job.options.pooled_maps = false;
    job.options.force = true;
    (void)record(job, nullptr, CancelToken());
    const auto run = with_output_projection(recorded_run(traces::Trace::open(file, {.probe = false})),
                                            [&](std::int64_t layer) { return sim::output_projection(*model, layer); });
    std::vector<std::unique_ptr<SequenceData>> forks;
    for (std::size_t s = 1; s < job.sequences.size(); ++s)
      forks.push_back(std::make_unique<SequenceData>(run, static_cast<std::int64_t>(s)));
    ClosedOptions options;
    options.kl = false;
    options.turns = turns;
    const ClosedPrompt closed(model, suite.prompts[p], static_cast<std::int64_t>(p), options);
    const auto cells = static_cast<std::int64_t>(policies.size() * amounts.size());
    std::mutex mutex;
    parallel_for(cells, [&](std::int64_t cell) {
      const sim::PolicyPtr& policy = policies[static_cast<std::size_t>(cell) / amounts.size()];
      const std::size_t a = static_cast<std::size_t>(cell) % amounts.size();
      const JobOutcome truth = closed.run({policy, amounts[a], 0});
      std::vector<Rows> open;  // one a fork; in multi one for all questions
      for (const auto& fork : forks) open.push_back(open_rows(*fork, {.policy = policy, .amount = amounts[a]}));
      std::string out;
      std::size_t at = 0;
      for (std::size_t q = 0; q < truth.questions.size(); ++q) {
        const Rows& rows = open[turns == Turns::multi ? 0 : q];
        if (turns != Turns::multi) at = 0;
        for (std::size_t t = 0; t < truth.questions[q].tokens.size(); ++t, ++at)
          out += fmt::format("{},{},{},{},{},{}\n", static_cast<std::size_t>(cell) / amounts.size(), amounts[a].value,
                             p, q, t, line(rows, rows.answer.at(at), truth.questions[q].tokens[t]));
      }
      const std::lock_guard lock(mutex);
      std::cout << out;
    });
    std::cout.flush();
    std::filesystem::remove(file);
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
