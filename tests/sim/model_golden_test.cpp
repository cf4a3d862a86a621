// tiny-3m against a forward pass by Hugging Face transformers (tests/golden/forward_tiny-3m.h5).
#include <gtest/gtest.h>

#include "core/dtype.h"
#include "tests/sim/model_support.h"
#include "tests/support/h5.h"

namespace kvgrind::tests {
namespace {

class ModelGolden : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    file = new H5File(source_dir() / "tests/golden/forward_tiny-3m.h5");
    loaded = new LoadedModel(load_model(tiny_3m()));
    ids = file->read<std::int32_t>("ids").values;
    tap = new KeepingTap(loaded->config.card.layers, true, true);
    logits = whole_pass(*loaded->model, ids, tap);
  }
  static void TearDownTestSuite() {
    delete file;
    delete loaded;
    delete tap;
  }

  // [T, H, D] of the tap against [H, T, D] of the file; stored as float16, so within its rounding.
  static void expect_rows(const std::vector<float>& got, const std::string& name) {
    const auto want = file->read<float>(name);
    const std::int64_t heads = want.shape[0], tokens = want.shape[1], dim = want.shape[2];
    ASSERT_EQ(got.size(), want.values.size());
    double worst = 0.0;
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t d = 0; d < dim; ++d) {
          const float x = got[static_cast<std::size_t>((t * heads + h) * dim + d)];
          const double error = std::abs(static_cast<double>(x) - want(h, t, d));
          const double allowed = std::abs(static_cast<double>(x)) * 0x1p-11 + 1e-4;
          if (!(error / allowed <= worst)) worst = error / allowed;
        }
    EXPECT_TRUE(worst <= 1.0) << name << ": " << worst << " of the rounding";
  }

  static inline H5File* file = nullptr;
  static inline LoadedModel* loaded = nullptr;
  static inline KeepingTap* tap = nullptr;
  static inline std::vector<std::int32_t> ids;
  static inline Array<float, 2> logits;
};

TEST_F(ModelGolden, LastLogits) {
  const auto want = file->read<float>("logits_tail");
  const auto tail = flat(logits).last(want.values.size());
  const double difference = largest_difference(tail, want.values);
  EXPECT_TRUE(difference <= 2e-3) << difference;
  EXPECT_EQ(tap->logits, std::vector<float>(flat(logits).begin(), flat(logits).end()));
}

TEST_F(ModelGolden, NegativeLogProbabilities) {
  const auto want = file->read<float>("nll");
  ASSERT_EQ(want.values.size() + 1, ids.size());
  double worst = 0.0;
  for (std::size_t t = 0; t < want.values.size(); ++t) {
    const auto row = flat(logits).subspan(t * static_cast<std::size_t>(logits.extent(1)),
                                          static_cast<std::size_t>(logits.extent(1)));
    const double error = std::abs(sim::negative_log_probability(row, ids[t + 1]) - want.values[t]);
    if (!(error <= worst)) worst = error;
  }
  EXPECT_TRUE(worst <= 1e-3) << worst;
}

TEST_F(ModelGolden, QueriesKeysValues) {
  for (std::int64_t l = 0; l < loaded->config.card.layers; ++l) {
    const std::string at = "L" + std::to_string(l) + "/";
    expect_rows(tap->at(l).q, at + "q");
    expect_rows(tap->at(l).k, at + "k");
    expect_rows(tap->at(l).v, at + "v");
  }
}

TEST_F(ModelGolden, LogSumExp) {
  for (std::int64_t l = 0; l < loaded->config.card.layers; ++l) {
    const auto want = file->read<float>("L" + std::to_string(l) + "/lse");
    double worst = 0.0;
    for (std::int64_t h = 0; h < want.shape[0]; ++h)
      for (std::int64_t t = 0; t < want.shape[1]; ++t) {
        const double error =
            std::abs(double{tap->at(l).lse[static_cast<std::size_t>(t * want.shape[0] + h)]} - want(h, t));
        if (!(error <= worst)) worst = error;
      }
    EXPECT_TRUE(worst <= 1e-4) << "layer " << l << ": " << worst;
  }
}

TEST_F(ModelGolden, ColumnSumsAndLastRow) {
  for (std::int64_t l = 0; l < loaded->config.card.layers; ++l) {
    const auto sums = file->read<float>("L" + std::to_string(l) + "/colsum");
    const auto last = file->read<float>("L" + std::to_string(l) + "/last");
    for (std::int64_t h = 0; h < sums.shape[0]; ++h)
      for (std::int64_t t = 0; t < sums.shape[1]; ++t) {
        const float sum = tap->at(l).column_sum[static_cast<std::size_t>(h)].at(static_cast<std::size_t>(t));
        EXPECT_NEAR(sum, sums(h, t), 1e-3 * std::abs(sums(h, t)) + 1e-6)
            << "layer " << l << " head " << h << " key " << t;
        const float p = tap->at(l).last[static_cast<std::size_t>(h)].at(static_cast<std::size_t>(t));
        EXPECT_NEAR(p, last(h, t), 1e-3 * std::abs(last(h, t)) + 1e-6)
            << "layer " << l << " head " << h << " key " << t;
      }
    EXPECT_EQ(tap->at(l).blocks, sums.shape[0] * ((sums.shape[1] + 63) / 64));
  }
}

TEST_F(ModelGolden, GreedyContinuation) {
  const auto want = file->read<std::int32_t>("greedy").values;
  const auto cache = sim::full_cache(loaded->config.card);
  const std::span prompt = std::span(ids).first(281);
  const sim::Feed feed{.ids = prompt, .cache = cache.get(), .logits_of = {280}};
  Array<float, 2> next = sim::prefill(*loaded->model, feed, 64);
  std::vector<std::int32_t> got;
  for (std::int64_t position = 281; got.size() < want.size(); ++position) {
    got.push_back(sim::sample(flat(next), {}, 0, position));
    const sim::Feed step{
        .first = position, .ids = std::span(got).last(1), .cache = cache.get(), .decode = true, .logits_of = {0}};
    next = std::move(sim::forward(*loaded->model, {&step, 1})[0]);
  }
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace kvgrind::tests
