// `validate` hands what was fitted to both loops, and records what its policies read.
#include "replay/validate/validate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

std::shared_ptr<const Calibration> some_directions(const ModelCard& card, float sign) {
  auto out = std::make_shared<Calibration>();
  out->method = "qfilters";
  out->model = calibration_model(card);
  CalibrationTensor& direction = out->tensors["direction"];
  direction.shape = {card.layers, card.kv_heads, card.head_dim};
  for (std::int64_t i = 0; i < card.layers * card.kv_heads * card.head_dim; ++i)
    direction.values.push_back(sign * (i % 7 == 0 ? 1.0f : 0.1f));
  return out;
}

ValidateOutcome validated(const std::vector<std::string>& policies,
                          const std::vector<std::shared_ptr<const Calibration>>& calibrations, const std::string& name,
                          Turns turns = Turns::blind) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("kvgrind-validate-" + name + "-" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  ValidateRequest request;
  request.model = &tests::tiny_folder();
  request.runtime = tests::tiny();
  Suite suite;
  suite.name = "cut";
  for (int p = 0; p < 2; ++p) {
    suite.prompts.push_back(tests::small_prompt(static_cast<std::size_t>(96 + 8 * p), 1));
    suite.prompts.back().task = "needle";
  }
  request.suites = {suite};
  request.policies = policies;
  request.turns = turns;
  request.calibrations = calibrations;
  request.amounts = {{sim::Amount::Kind::fraction, 0.3}};
  request.folder = folder;
  request.resamples = 10;
  ValidateOutcome out = run_validate(request, nullptr, {});
  std::filesystem::remove_all(folder);
  return out;
}

// What policies read is recorded for them: all queries, passes over the context once more.
TEST(ValidateProtocols, AwareAndBlindWithWhatPoliciesAsk) {
  for (const Turns turns : {Turns::blind, Turns::aware}) {
    const ValidateOutcome out = validated({"snapkv", "observed", "cur", "expected_attention(sinks=8)", "kvzip"}, {},
                                          std::string(turns_name(turns)), turns);
    EXPECT_TRUE(out.left_out.empty()) << out.left_out.front();
    EXPECT_EQ(out.validation.tasks.at(0).methods, 5);
    EXPECT_EQ(out.validation.tasks.at(0).task, turns == Turns::blind ? "cut" : "cut+aware");
  }
}

const Cell* cell_of(const Validation& validation, const std::string& method) {
  for (const Cell& cell : validation.tasks.at(0).cells)
    if (cell.method == method) return &cell;
  return nullptr;
}

TEST(ValidateCalibration, ReachesBothLoops) {
  const ModelCard& card = sim::model_config(*tests::tiny()).card;
  const Validation one = validated({"qfilters", "knorm"}, {some_directions(card, 1)}, "one").validation;
  const Validation other = validated({"qfilters", "knorm"}, {some_directions(card, -1)}, "other").validation;
  ASSERT_TRUE(cell_of(one, "qfilters") && cell_of(other, "qfilters"));
  // The opposite direction keeps other tokens: both loops tell.
  EXPECT_NE(cell_of(one, "qfilters")->truth, cell_of(other, "qfilters")->truth);
  EXPECT_NE(cell_of(one, "qfilters")->figure.at("E.answer"), cell_of(other, "qfilters")->figure.at("E.answer"));
  EXPECT_EQ(cell_of(one, "knorm")->truth, cell_of(other, "knorm")->truth);
}

TEST(ValidateCalibration, WithoutItTheMethodIsLeftOutByName) {
  const ValidateOutcome outcome = validated({"qfilters", "knorm"}, {}, "none");
  EXPECT_FALSE(cell_of(outcome.validation, "qfilters"));
  EXPECT_TRUE(cell_of(outcome.validation, "knorm"));
  ASSERT_EQ(outcome.left_out.size(), 1u);
  EXPECT_NE(outcome.left_out[0].find("qfilters"), std::string::npos) << outcome.left_out[0];
}

}  // namespace
}  // namespace kvgrind::replay
