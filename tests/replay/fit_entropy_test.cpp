// Matrix entropy of queries, and heads by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replay/fit/matrix_entropy.h"
#include "tests/replay/synthetic_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;

TEST(MatrixEntropy, WorkedExamples) {
  Rows both(4, 2), one(4, 2);
  both << 1, 0, -1, 0, 0, 2, 0, -2;  // eigenvalues ½ and ½
  one << 1, 0, -1, 0, 3, 0, -3, 0;   // 1 and 0
  EXPECT_NEAR(matrix_entropy(both, 32), 1, 1e-12);
  EXPECT_NEAR(matrix_entropy(one, 32), 0, 1e-12);
  EXPECT_NEAR(matrix_entropy(both, 1), 0.5, 1e-12);  // truncated
  EXPECT_EQ(matrix_entropy(Rows::Constant(3, 2, 4.0f), 32), 0);
}

TEST(MatrixEntropy, PlacesOfHeads) {
  SyntheticOptions options;
  options.contexts = 4;
  FitRequest asked;
  asked.method = "uncomp";
  asked.runs = {std::make_shared<const SyntheticRun>(options)};
  const Calibration fitted = fit(asked);
  for (std::size_t l = 0; l < 2; ++l) {
    float sum = 0;
    for (std::size_t h = 0; h < 4; ++h) sum += fitted.tensor("head", {2, 4}).values[4 * l + h];
    EXPECT_NEAR(sum, 2, 1e-5);  // places 0, 1/3, 2/3, 1 in every prompt
    EXPECT_GT(fitted.tensor("layer", {2}).values[l], 0);
    EXPECT_LT(fitted.tensor("layer", {2}).values[l], 100);
  }
}

}  // namespace
}  // namespace kvgrind::tests
