// Every family and toggle against logits by Hugging Face transformers (tests/golden/make_families.py).
#include <gtest/gtest.h>

#include "tests/sim/model_support.h"
#include "tests/support/h5.h"

namespace kvgrind::tests {
namespace {

std::filesystem::path families() { return source_dir() / "tests/golden/families"; }

std::vector<std::string> family_names() { return H5File(families() / "families.h5").members(); }

class ModelFamilies : public testing::TestWithParam<std::string> {};

TEST_P(ModelFamilies, LogitsAsTransformers) {
  const H5File file(families() / "families.h5");
  const auto ids = file.read<std::int32_t>(GetParam() + "/ids");
  const auto expected = file.read<float>(GetParam() + "/logits");
  const LoadedModel loaded = load_model(families() / GetParam());
  const sim::RunOptions options{.announced_length = static_cast<std::int64_t>(ids.values.size())};
  const Array<float, 2> logits = whole_pass(*loaded.model, ids.values, nullptr, options);
  ASSERT_EQ(logits.size(), static_cast<std::int64_t>(expected.values.size()));
  const double difference = largest_difference(flat(logits), expected.values);
  EXPECT_TRUE(difference <= 1e-4) << difference;
}

INSTANTIATE_TEST_SUITE_P(, ModelFamilies, testing::ValuesIn(family_names()), [](const auto& named) {
  std::string name = named.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// The fixed length of dynamic RoPE matters: another announced length turns the keys otherwise.
TEST(ModelFamily, AnnouncedLengthTurnsDynamicRope) {
  const LoadedModel loaded = load_model(families() / "llama-dynamic");
  const auto ids = random_ids(40, loaded.config.card.vocab);
  const auto short_run = whole_pass(*loaded.model, ids, nullptr, {.announced_length = 32});
  EXPECT_EQ(flat(short_run).front(), flat(whole_pass(*loaded.model, ids)).front());
  EXPECT_GT(
      largest_difference(flat(short_run), flat(whole_pass(*loaded.model, ids, nullptr, {.announced_length = 64}))),
      0.1);
}

}  // namespace
}  // namespace kvgrind::tests
