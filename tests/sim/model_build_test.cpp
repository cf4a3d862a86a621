// What build_model refuses, all of it at once; and what it accepts.
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/sim/model_support.h"

namespace kvgrind::tests {
namespace {

std::string refusal(const RandomModel& random) {
  try {
    random.build();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::damaged);
    return error.what();
  }
  return "";
}

TEST(BuildModel, NamesEveryFaultAtOnce) {
  RandomModel random(2);
  random.fill();
  auto& tensors = random.weights.tensors;
  tensors.erase("model.layers.1.self_attn.k_proj.weight");
  tensors.erase("model.norm.weight");
  tensors.at("model.layers.0.mlp.down_proj.weight").shape = {56, 40};
  tensors.at("model.embed_tokens.weight").shape = {70};
  random.add("model.layers.0.self_attn.q_proj.bias", {48}, 1.0f);
  const std::string text = refusal(random);
  for (const char* part :
       {"random", "model.layers.1.self_attn.k_proj.weight is missing (expected [24, 40])",
        "model.norm.weight is missing", "mlp.down_proj.weight is [56, 40], expected [40, 56]",
        "model.embed_tokens.weight is [70], expected [70, 40]", "model.layers.0.self_attn.q_proj.bias has no place"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

// Each tensor in turn taken away, and given one element too many.
TEST(BuildModel, EveryTensorIsNeeded) {
  RandomModel random(1);
  random.config.qkv_bias = random.config.o_bias = random.config.mlp_bias = random.config.qk_norm = true;
  random.fill();
  EXPECT_EQ(refusal(random), "");
  const auto whole = random.weights.tensors;
  EXPECT_EQ(whole.size(), 3u + 9u + 2u + 7u);
  for (const auto& [name, tensor] : whole) {
    random.weights.tensors.erase(name);
    EXPECT_NE(refusal(random).find(name + " is missing"), std::string::npos) << name;
    random.weights.tensors[name] = tensor;
    ++random.weights.tensors[name].shape.back();
    EXPECT_NE(refusal(random).find(name + " is ["), std::string::npos) << name;
    random.weights.tensors[name] = tensor;
  }
}

TEST(BuildModel, ForeignFileIsNotListedWhole) {
  RandomModel random(1);
  random.fill();
  for (int i = 0; i < 1000; ++i) random.add("vision.block." + std::to_string(i), {1}, 1.0f);
  const std::string text = refusal(random);
  EXPECT_NE(text.find("984 more tensors have no place"), std::string::npos) << text;
  EXPECT_LT(text.size(), 3000u);
}

TEST(BuildModel, HarmlessExtrasAreAccepted) {
  RandomModel random(1);
  random.config.tied_embeddings = true;
  random.fill();
  random.add("lm_head.weight", {70, 40}, 1.0f);  // stored although tied
  random.add("model.layers.0.self_attn.rotary_emb.inv_freq", {6}, 1.0f);
  EXPECT_EQ(refusal(random), "");
}

TEST(BuildModel, RefusesUnusableConfigurations) {
  const auto with = [](auto change) {
    RandomModel random(2);
    random.fill();
    change(random.config);
    return refusal(random);
  };
  const auto expect = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  };
  expect(with([](ModelConfig& c) { c.card.kv_heads = 3; }), "4 query heads cannot share 3 kv heads");
  expect(with([](ModelConfig& c) { c.activation = "gelu"; }), "activation \"gelu\"");
  expect(with([](ModelConfig& c) { c.card.vocab = 0; }), "must all be positive");
  expect(with([](ModelConfig& c) { c.card.layer.pop_back(); }), "1 layer entries for 2 layers");
  expect(with([](ModelConfig& c) { c.card.layer[1].rope_set = 2; }), "layer 1 names RoPE set 2 of 1");
  expect(with([](ModelConfig& c) { c.card.layer[1].window = -4; }), "window -4");
  expect(with([](ModelConfig& c) { c.card.rope[0].inv_freq.resize(7); }), "rotates 14 of 12 dims");
  expect(with([](ModelConfig& c) { c.rope.clear(); }), "0 RoPE parameter sets");
  expect(with([](ModelConfig& c) { c.card.scale = 0.0f; }), "scale is 0");
  expect(with([](ModelConfig& c) { c.card.sinks = {1.0f}; }), "1 attention sinks");
}

// The model outlives the weights' owner as long as `storage` holds the bytes.
TEST(BuildModel, KeepsStorageAlive) {
  std::shared_ptr<const sim::Model> model;
  Array<float, 2> before, w;
  const auto ids = random_ids(20, 70);
  {
    RandomModel random(1);
    model = random.fill().build();
    before = whole_pass(*model, ids);
    w = sim::output_projection(*model, 0);
  }
  const RandomModel other = RandomModel(1);  // reuses freed memory, if there is any
  EXPECT_EQ(largest_difference(flat(whole_pass(*model, ids)), flat(before)), 0.0);
  EXPECT_EQ(largest_difference(flat(sim::output_projection(*model, 0)), flat(w)), 0.0);
}

}  // namespace
}  // namespace kvgrind::tests
