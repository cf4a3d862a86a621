// Calibrations with random tensors: for tests that need one of every shape, not one that is any good.
#include <cmath>
#include <random>

#include "core/hash.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

struct Maker {
  Calibration out;
  std::mt19937_64 rng;
  void normal(const std::string& name, std::vector<std::int64_t> shape, float spread = 1.0f) {
    std::int64_t n = 1;
    for (const std::int64_t e : shape) n *= e;
    std::normal_distribution<float> draw(0.0f, spread);
    CalibrationTensor& tensor = out.tensors[name];
    tensor.shape = std::move(shape);
    for (std::int64_t i = 0; i < n; ++i) tensor.values.push_back(draw(rng));
  }
  void uniform(const std::string& name, std::vector<std::int64_t> shape) {
    normal(name, std::move(shape));
    for (float& x : out.tensors[name].values) x = 0.5f * (1 + std::erf(x));
  }
};

}  // namespace

std::shared_ptr<const Calibration> synthetic_calibration(const std::string& method, const ModelCard& card) {
  Maker maker{.out = {.method = method, .model = calibration_model(card), .tensors = {}, .numbers = {}, .texts = {}},
              .rng = std::mt19937_64(hash_text(method))};
  const std::int64_t features = (card.query_heads + 2 * card.kv_heads) * card.head_dim;
  if (method == "duo") {
    maker.normal("head", {card.layers, card.kv_heads});
  } else if (method == "razor") {
    for (const char* name : {"echo", "induction"}) maker.normal(name, {card.layers, card.kv_heads});
  } else if (method == "lukv") {
    maker.uniform("prune", {99, card.layers, card.kv_heads});
  } else if (method == "compresskv") {
    maker.normal("head", {card.layers, card.query_heads});
    maker.uniform("layer", {card.layers});
  } else if (method == "uncomp") {
    maker.uniform("head", {card.layers, card.query_heads});
    maker.normal("layer", {card.layers}, 10.0f);
  } else if (method == "lookaheadkv") {
    maker.normal("query", {card.layers, card.query_heads, 3, card.head_dim});
  } else if (method == "lococo") {
    for (std::int64_t layer = 0; layer < card.layers; ++layer) {
      const std::string l = " " + std::to_string(layer);
      maker.normal("w" + l, {4, 3 * 2 * card.head_dim}, 0.3f);
      maker.normal("b" + l, {4});
      maker.uniform("nu" + l, {1});
    }
  } else if (method == "prefixkv") {
    maker.uniform("prune", {99, card.layers, 1});
  } else if (method == "qfilters") {
    maker.normal("direction", {card.layers, card.kv_heads, card.head_dim});
  } else if (method == "expected") {
    maker.normal("mean", {card.layers, card.query_heads, card.head_dim});
    maker.normal("covariance", {card.layers, card.query_heads, card.head_dim, card.head_dim}, 0.1f);
  } else if (method == "triattention") {
    maker.normal("mean", {card.layers, card.query_heads, card.head_dim});
    maker.normal("modulus", {card.layers, card.query_heads, card.head_dim / 2});
  } else if (method == "fast_kvzip") {
    constexpr std::int64_t width = 4, bases = 3;
    for (std::int64_t layer = 0; layer < card.layers; ++layer) {
      const std::string l = " " + std::to_string(layer);
      maker.normal("wq" + l, {features, card.query_heads * width}, 0.1f);
      maker.normal("cq" + l, {card.query_heads * width});
      maker.normal("wk" + l, {features, card.kv_heads * width}, 0.1f);
      maker.normal("nq" + l, {width});
      maker.normal("nk" + l, {width});
      maker.normal("base" + l, {card.kv_heads * bases, width});
      maker.normal("b" + l, {card.query_heads});
    }
  } else {
    maker.out.numbers["logistic"] = method == "attention_gate";
    for (std::int64_t layer = 0; layer < card.layers; ++layer) {
      const std::string l = " " + std::to_string(layer);
      if (method == "attention_gate") {
        maker.normal("w" + l, {features, card.kv_heads}, 0.1f);
        maker.normal("b" + l, {card.kv_heads});
      } else {
        maker.normal("w1" + l, {features, 8}, 0.1f);
        maker.normal("b1" + l, {8});
        maker.normal("w2" + l, {8, card.kv_heads});
        maker.normal("b2" + l, {card.kv_heads});
      }
    }
  }
  return std::make_shared<const Calibration>(std::move(maker.out));
}

}  // namespace kvgrind::tests
