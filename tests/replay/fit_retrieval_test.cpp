// Retrieval heads from needle prompts, and what eviction by their votes costs a layer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "replay/open_loop/open_loop.h"
#include "replay/sweep/grid.h"
#include "tests/replay/planted_run.h"

namespace kvgrind::tests {
namespace {

using namespace kvgrind::replay;

// The first KV head's keys of five tokens lie along what its queries ask for.
class NeedleRun final : public PlantedRun {
 public:
  explicit NeedleRun(std::uint64_t seed, bool spans = true) : PlantedRun(seed), infos_(PlantedRun::sequences()) {
    if (spans)
      for (auto& info : infos_) info.spans = {{"needle", 20, 25, ""}};
  }
  const std::vector<traces::SequenceInfo>& sequences() const override { return infos_; }
  Array<float, 2> keys(std::int64_t s, std::int64_t layer, std::int64_t h) const override {
    Array<float, 2> out = PlantedRun::keys(s, layer, h);
    for (std::int64_t t = 20; t < 25 && h == 0; ++t)
      for (std::int64_t d = 0; d < 8; ++d) out(t, d) += 4 * direction(0, d);
    return out;
  }

 protected:
  std::optional<Array<float, 2>> read_output_projection(std::int64_t) const override {
    Array<float, 2> identity({32, 32});
    for (std::int64_t i = 0; i < 32; ++i) identity(i, i) = 1;
    return identity;
  }

 private:
  std::vector<traces::SequenceInfo> infos_;
};

FitRequest needles(std::uint64_t seed, bool spans = true) {
  FitRequest out;
  out.method = "compresskv";
  out.runs = {std::make_shared<const NeedleRun>(seed, spans)};
  return out;
}

TEST(RetrievalHeads, ThoseThatLookAtTheNeedle) {
  const Calibration fitted = fit(needles(1));
  const auto& head = fitted.tensor("head", {1, 4}).values;
  for (const std::size_t h : {0u, 1u})
    for (const std::size_t other : {2u, 3u}) EXPECT_GT(head[h], 3 * head[other]);
  EXPECT_LT(fitted.number("held_out_error", 1), 0.05);
  EXPECT_NEAR(fitted.tensor("layer", {1}).values[0], 1.0f, 1e-6f);
  EXPECT_THROW((void)fit(needles(1, false)), Error);
}

TEST(RetrievalHeads, AppliedToOtherPromptsTheNeedleStays) {
  const auto fitted = std::make_shared<const Calibration>(fit(needles(1)));
  const SequenceData data(std::make_shared<const NeedleRun>(9), 0);
  const auto recall = [&](const sim::PolicyPtr& policy) {
    return run_open(data, {.policy = policy, .amount = sim::parse_amount("15t")}).metrics.at("recall.all").value;
  };
  EXPECT_GT(recall(calibrated_policy("compresskv(heads=2,least=0,pool=1)", {fitted})),
            1.2 * recall(sim::bind_policy("random")));
}

}  // namespace
}  // namespace kvgrind::tests
