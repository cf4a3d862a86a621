// kvgrind fit: planted relations are found again, on prompts that were held out too; what was fitted on one set of
// prompts is applied to another.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "replay/fit/fit_data.h"
#include "replay/open_loop/open_loop.h"
#include "replay/sweep/grid.h"
#include "tests/replay/planted_run.h"
#include "tests/replay/synthetic_run.h"
#include "traces/calibration/calibration_file.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;
using testing::HasSubstr;

TEST(Fit, APlantedDirectionIsFound) {
  const Calibration fitted = fit(fit_request("qfilters"));
  const auto& direction = fitted.tensor("direction", {1, 2, 8});
  for (std::int64_t g = 0; g < 2; ++g)
    for (std::int64_t d = 0; d < 8; ++d)
      EXPECT_NEAR(direction.values[static_cast<std::size_t>(g * 8 + d)], PlantedRun::direction(g, d), 1e-4);
  EXPECT_NEAR(fitted.number("held_out_error", 1), 0, 1e-5);
  EXPECT_EQ(fitted.number("sequences_held_out", 0), 2);
  EXPECT_EQ(fitted.number("sequences_fitted", 0), 6);
}

// The catalogue's eight vectors as queries of every head: singular values 5.6894 and 2.7624, first direction
// (.6154, .7882), six of eight rows on its side.
class EightQueries : public PlantedRun {
 public:
  EightQueries() : PlantedRun(1) {}
  traces::RecordedQueries queries(std::int64_t, std::int64_t, std::int64_t) const override {
    const float rows[8][2] = {{1, 0}, {0, 1}, {1, 1}, {2, 0}, {0, 2}, {-1, 0}, {1, -1}, {3, 4}};
    traces::RecordedQueries out;
    out.q = Array<float, 2>({length, 8});  // the other rows are zero
    for (std::int64_t t = 0; t < length; ++t) out.position.push_back(t);
    for (std::int64_t t = 0; t < 8; ++t)
      for (std::int64_t d = 0; d < 2; ++d) out.q(t, d) = rows[t][d];
    return out;
  }
};

TEST(Fit, TheDirectionOfEightVectorsByHand) {
  FitRequest request = fit_request("qfilters");
  request.runs = {std::make_shared<const EightQueries>()};
  const Calibration fitted = fit(request);
  const auto& direction = fitted.tensor("direction", {1, 2, 8});
  for (std::size_t g = 0; g < 2; ++g) {
    EXPECT_NEAR(direction.values[g * 8], .6154f, 1e-4);
    EXPECT_NEAR(direction.values[g * 8 + 1], .7882f, 1e-4);
  }
  // What the first singular value leaves of the whole.
  EXPECT_NEAR(fitted.number("fitted_error", 0), 1 - 5.6894 * 5.6894 / (5.6894 * 5.6894 + 2.7624 * 2.7624), 1e-4);
}

TEST(Fit, PlantedCentresAreFound) {
  const Calibration fitted = fit(fit_request("triattention"));
  const auto& mean = fitted.tensor("mean", {1, 4, 8});
  for (std::int64_t d = 0; d < 8; ++d)
    EXPECT_NEAR(mean.values[static_cast<std::size_t>(3 * 8 + d)], 1.5f * PlantedRun::direction(1, d), 1e-4);
  EXPECT_NEAR(fitted.number("held_out_error", 1), 0, 1e-5);
}

TEST(Fit, WhatTheFutureAttendsToIsLearnedFromTheKey) {
  // Attention is exp of a linear function of the key over a nearly constant sum: a line gets most of it, a small
  // network more, a gate the side of the median.
  const Calibration linear = fit(fit_request("locret"));
  EXPECT_LT(linear.number("held_out_error", 1), 0.4);
  FitRequest wide = fit_request("locret", 1, 24);
  wide.hidden = 16;
  wide.epochs = 150;
  const Calibration network = fit(wide);
  EXPECT_LT(network.number("held_out_error", 1), 0.9 * fit(fit_request("locret", 1, 24)).number("held_out_error", 1));
  EXPECT_TRUE(network.tensors.contains("w1 0"));
  const Calibration gate = fit(fit_request("attention_gate"));
  EXPECT_LT(gate.number("held_out_error", 1), 0.12);
}

TEST(Fit, NoiseIsNotLearned) {
  // Least squares on labels that a token's own features do not explain: the held-out error says so.
  SyntheticOptions options;
  options.contexts = 4;
  options.context = 60;
  FitRequest noise;
  noise.method = "locret";
  noise.runs = {std::make_shared<const SyntheticRun>(options)};
  EXPECT_GT(fit(noise).number("held_out_error", 0), 0.5);
}

TEST(Fit, AppliedToOtherPromptsItBeatsChance) {
  // Fitted on one recording, replayed on another of the same model.
  const auto fitted = std::make_shared<const Calibration>(fit(fit_request("locret", 1)));
  const auto gate = std::make_shared<const Calibration>(fit(fit_request("attention_gate", 1)));
  const auto filters = std::make_shared<const Calibration>(fit(fit_request("qfilters", 1)));
  const auto other = std::make_shared<const PlantedRun>(9);
  const SequenceData data(other, 0);
  const auto recall = [&](const sim::PolicyPtr& policy) {
    return run_open(data, {.policy = policy, .amount = sim::parse_amount("0.2")}).metrics.at("recall.all").value;
  };
  const double chance = recall(sim::bind_policy("random")), best = recall(sim::bind_policy("oracle"));
  EXPECT_GT(recall(calibrated_policy("locret", {fitted, gate, filters})), 0.98 * best);
  EXPECT_GT(recall(calibrated_policy("qfilters", {fitted, gate, filters})), 0.98 * best);
  EXPECT_GT(recall(calibrated_policy("attention_gate-m", {fitted, gate, filters})), 0.95 * best);
  EXPECT_LT(chance, 0.8 * best);
  EXPECT_THROW((void)recall(calibrated_policy("locret", {gate})), Error);
}

TEST(Fit, StreamingErrorTellsHeadsApart) {
  FitRequest streaming = fit_request("duo");
  streaming.sinks = 2;
  streaming.recent = 8;
  const Calibration fitted = fit(streaming);
  for (const float error : fitted.tensor("head", {1, 2}).values) EXPECT_GT(error, 0.01f);
  streaming.recent = 100;  // nothing would be dropped
  EXPECT_THROW((void)fit(streaming), Error);
}

TEST(Fit, RefusesByName) {
  const auto failure = [](const FitRequest& asked) {
    try {
      (void)fit(asked);
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(failure(fit_request("nothing")), HasSubstr("one of qfilters"));
  EXPECT_THAT(failure(fit_request("locret", 1, 1)), HasSubstr("at least two"));
  FitRequest all = fit_request("locret");
  all.held_out = 0.9;
  EXPECT_THAT(failure(all), HasSubstr("held-out share"));
}

TEST(CalibrationFile, ThereAndBack) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("kvgrind-fit-" + std::to_string(::getpid()) + ".h5");
  std::filesystem::remove(path);
  const Calibration fitted = fit(fit_request("attention_gate"));
  traces::write_calibration(path, fitted, false);
  EXPECT_THROW(traces::write_calibration(path, fitted, false), Error);
  const auto read = traces::read_calibration(path);
  EXPECT_EQ(read->hash(), fitted.hash());
  EXPECT_EQ(read->numbers, fitted.numbers);
  EXPECT_EQ(read->texts, fitted.texts);
  for (const auto& [name, tensor] : fitted.tensors) {
    EXPECT_EQ(read->tensors.at(name).shape, tensor.shape);
    EXPECT_EQ(read->tensors.at(name).values, tensor.values);
  }
  // Named in the line instead of beside it.
  const auto policy = calibrated_policy("attention_gate-m(calib=\"" + path.string() + "\")", {});
  EXPECT_THAT(sim::canonical_line(*policy), HasSubstr(fitted.hash()));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_THROW((void)traces::read_calibration(path), Error);
  std::filesystem::remove(path);
  EXPECT_THROW((void)traces::read_calibration(path), Error);
}

}  // namespace
}  // namespace kvgrind::tests
