// Queries fitted to the attention of what comes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replay/fit/lookahead_queries.h"
#include "replay/open_loop/open_loop.h"
#include "replay/sweep/grid.h"
#include "tests/replay/planted_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;

TEST(LookaheadQueries, DivergenceByHand) {
  EXPECT_NEAR(divergence(Eigen::Vector2d(.5, .5), Eigen::Vector2d(.25, .75)), .14384, 1e-5);
  EXPECT_EQ(divergence(Eigen::Vector2d(0, 1), Eigen::Vector2d(.5, .5)), std::log(2.0));
}

TEST(LookaheadQueries, SlopesAgainstDifferences) {
  std::mt19937_64 rng(111);
  std::normal_distribution<float> normal;
  Rows q(3, 4), k(7, 4);
  for (Eigen::Index i = 0; i < q.size(); ++i) q.data()[i] = normal(rng);
  for (Eigen::Index i = 0; i < k.size(); ++i) k.data()[i] = normal(rng);
  Eigen::VectorXd want = Eigen::VectorXd::Random(7).cwiseAbs();
  want /= want.sum();
  const Eigen::MatrixXd slope = divergence_slope(q, k, .7, want);
  for (Eigen::Index i = 0; i < q.size(); ++i) {
    constexpr float step = 1e-2f;
    Rows above = q, below = q;
    above.data()[i] += step;
    below.data()[i] -= step;
    const double difference =
        (divergence(want, mean_softmax(above, k, .7)) - divergence(want, mean_softmax(below, k, .7))) /
        (2 * static_cast<double>(step));
    EXPECT_NEAR(slope(i / 4, i % 4), difference, 1e-4);
  }
}

TEST(LookaheadQueries, FittedOnSomePromptsAppliedToOthers) {
  FitRequest asked = fit_request("lookaheadkv");
  asked.vectors = 2;
  const Calibration fitted = fit(asked);
  EXPECT_LE(fitted.number("fitted_error", 9), fitted.number("first_error", 0) + 1e-6);
  EXPECT_LT(fitted.number("held_out_error", 9), 0.05);  // every query of a head is the same one
  const auto given = std::make_shared<const Calibration>(fitted);
  const SequenceData data(std::make_shared<const PlantedRun>(9), 0);
  const auto recall = [&](const sim::PolicyPtr& policy) {
    return run_open(data, {.policy = policy, .amount = sim::parse_amount("0.2")}).metrics.at("recall.all").value;
  };
  EXPECT_GT(recall(calibrated_policy("lookaheadkv-m(pool=1)", {given})), 0.98 * recall(sim::bind_policy("oracle")));
}

TEST(LookaheadQueries, AFewVectorsMoveTowardsManyQueries) {
  // Heads whose queries differ: two vectors start at two of them and come nearer to the mean of all.
  class Varied final : public PlantedRun {
   public:
    using PlantedRun::PlantedRun;
    traces::RecordedQueries queries(std::int64_t s, std::int64_t l, std::int64_t h) const override {
      traces::RecordedQueries out = PlantedRun::queries(s, l, h);
      for (std::int64_t t = 0; t < length; ++t)
        for (std::int64_t d = 0; d < 8; ++d) out.q(t, d) = direction(t % 2, d) * (t % 4 < 2 ? 1.5f : -1.0f);
      return out;
    }
  };
  FitRequest asked;
  asked.method = "lookaheadkv";
  asked.vectors = 2;
  asked.epochs = 150;
  asked.runs = {std::make_shared<const Varied>(2)};
  const Calibration fitted = fit(asked);
  EXPECT_LT(fitted.number("fitted_error", 9), 0.7 * fitted.number("first_error", 0));
  EXPECT_LT(fitted.number("held_out_error", 9), 0.8 * fitted.number("first_error", 0));
}

}  // namespace
}  // namespace kvgrind::tests
