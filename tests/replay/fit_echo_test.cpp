// Repeated text and the heads that look at its repetition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "replay/fit/echo_heads.h"
#include "tests/replay/planted_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;
using testing::ElementsAre;

// Pairs (query, key) that a head must look at to be counted.
std::vector<std::pair<int, int>> counted(bool induction, std::int64_t period, std::int64_t tokens) {
  std::vector<std::pair<int, int>> out;
  for (int i = 0; i < tokens; ++i)
    for (int j = 0; j < tokens; ++j) {
      Rows one = Rows::Zero(tokens, tokens);
      one(i, j) = 1;
      const EchoScores scores = echo_scores(one, 0, {0, period});
      if ((induction ? scores.induction : scores.echo) > 0) out.emplace_back(i, j);
    }
  return out;
}

TEST(EchoHeads, MasksOfTheWorkedExample) {
  using P = std::pair<int, int>;
  EXPECT_THAT(counted(false, 2, 6), ElementsAre(P{2, 0}, P{3, 1}, P{4, 0}, P{4, 2}, P{5, 1}, P{5, 3}));
  EXPECT_THAT(counted(true, 2, 6), ElementsAre(P{2, 1}, P{3, 2}, P{4, 1}, P{4, 3}, P{5, 2}, P{5, 4}));
}

TEST(EchoHeads, TheRepetitionIsFound) {
  const auto found = [](const std::vector<std::int32_t>& tokens) {
    const Repetition r = find_repetition(tokens);
    return std::vector<std::int64_t>{r.first, r.period};
  };
  EXPECT_THAT(found({1, 5, 6, 7, 5, 6, 7, 5, 6, 7}), ElementsAre(1, 3));  // after a first token
  EXPECT_THAT(found({5, 6, 7, 5, 6, 7, 5}), ElementsAre(0, 3));           // cut off
  EXPECT_THAT(found({1, 2, 3, 4, 5}), ElementsAre(0, 0));
  // Against every start and period.
  std::mt19937_64 rng(81);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0, n = 4 + rng() % 12; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng() % 2));
    std::vector<std::int64_t> want{0, 0};
    for (std::size_t first = 0; first < tokens.size() && want[1] == 0; ++first)
      for (std::size_t period = 1; 2 * period <= tokens.size() - first && want[1] == 0; ++period) {
        bool repeats = true;
        for (std::size_t i = first + period; i < tokens.size(); ++i) repeats &= tokens[i] == tokens[i - period];
        if (repeats) want = {static_cast<std::int64_t>(first), static_cast<std::int64_t>(period)};
      }
    EXPECT_EQ(found(tokens), want);
  }
}

// PlantedRun with repeating tokens: attention says nothing of them, and both KV heads look alike.
class Repeating final : public PlantedRun {
 public:
  using PlantedRun::PlantedRun;
  std::vector<std::int32_t> tokens(std::int64_t) const override {
    std::vector<std::int32_t> out{0};
    for (std::int64_t i = 1; i < length; ++i) out.push_back(static_cast<std::int32_t>(i % 13));
    return out;
  }
};

TEST(EchoHeads, FittedFromRecordings) {
  FitRequest asked;
  asked.method = "razor";
  asked.runs = {std::make_shared<const Repeating>(3)};
  const Calibration fitted = fit(asked);
  for (const char* name : {"echo", "induction"})
    for (const float x : fitted.tensor(name, {1, 2}).values) {
      EXPECT_GT(x, 0.0f);  // about one of thirteen keys
      EXPECT_LT(x, 0.2f);
    }
  asked.runs = {std::make_shared<const PlantedRun>(3)};  // the same token throughout: period 1
  EXPECT_NO_THROW((void)fit(asked));
}

}  // namespace
}  // namespace kvgrind::tests
