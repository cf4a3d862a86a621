// The runtime against a forward pass written down plainly in double, over random models with every toggle drawn.
#include <gtest/gtest.h>

#include "tests/sim/model_support.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using Row = std::vector<double>;

class Plain {
 public:
  explicit Plain(const RandomModel& random) : config_(random.config), card_(config_.card), weights_(random.weights) {}

  // Logits of every token.
  std::vector<Row> run(std::span<const std::int32_t> ids) const {
    const Row embedding = values("model.embed_tokens.weight");
    std::vector<Row> x;
    for (const std::int32_t id : ids)
      x.emplace_back(embedding.begin() + id * card_.hidden, embedding.begin() + (id + 1) * card_.hidden);
    for (std::int64_t l = 0; l < card_.layers; ++l) layer(l, x);
    std::vector<Row> logits;
    for (const Row& row : x)
      logits.push_back(
          linear(config_.tied_embeddings ? "model.embed_tokens" : "lm_head", norm(row, "model.norm.weight")));
    return logits;
  }

 private:
  Row values(const std::string& name) const {
    const Tensor& tensor = weights_.tensors.at(name);
    std::vector<float> out(static_cast<std::size_t>(tensor.elements()));
    to_f32(tensor.dtype, tensor.data, tensor.elements(), out.data());
    return Row(out.begin(), out.end());
  }
  Row linear(const std::string& name, const Row& x) const {
    const Row w = values(name + ".weight");
    Row y = weights_.find(name + ".bias") ? values(name + ".bias") : Row(w.size() / x.size());
    for (std::size_t n = 0; n < y.size(); ++n)
      for (std::size_t k = 0; k < x.size(); ++k) y[n] += w[n * x.size() + k] * x[k];
    return y;
  }
  Row norm(const Row& x, const std::string& name) const {
    const Row w = values(name);
    double square = 0.0;
    for (const double value : x) square += value * value;
    Row y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = x[i] / std::sqrt(square / static_cast<double>(x.size()) + config_.rms_eps) * w[i];
    return y;
  }
  // Heads of one token: normed where the family does, rotated to its position.
  std::vector<Row> rotated(const Row& x, const std::string& norm_name, std::int64_t position, std::int64_t l) const {
    const RopeSet& set = card_.rope[static_cast<std::size_t>(card_.layer[static_cast<std::size_t>(l)].rope_set)];
    const std::size_t half = set.inv_freq.size(), dim = static_cast<std::size_t>(card_.head_dim);
    std::vector<Row> out;
    for (std::size_t at = 0; at < x.size(); at += dim) {
      Row head(x.begin() + static_cast<std::ptrdiff_t>(at), x.begin() + static_cast<std::ptrdiff_t>(at + dim));
      if (config_.qk_norm) head = norm(head, norm_name);
      for (std::size_t m = 0; m < half; ++m) {
        const double angle = static_cast<double>(static_cast<float>(position) * set.inv_freq[m]);
        const double a = head[m], b = head[m + half], c = std::cos(angle), s = std::sin(angle);
        head[m] = (a * c - b * s) * set.attention_factor;
        head[m + half] = (b * c + a * s) * set.attention_factor;
      }
      out.push_back(head);
    }
    return out;
  }
  void layer(std::int64_t l, std::vector<Row>& x) const {
    const std::string at = "model.layers." + std::to_string(l) + ".";
    std::vector<std::vector<Row>> k;
    std::vector<Row> v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row in = norm(x[t], at + "input_layernorm.weight");
      k.push_back(rotated(linear(at + "self_attn.k_proj", in), at + "self_attn.k_norm.weight",
                          static_cast<std::int64_t>(t), l));
      v.push_back(linear(at + "self_attn.v_proj", in));
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Row in = norm(x[t], at + "input_layernorm.weight");
      const auto q =
          rotated(linear(at + "self_attn.q_proj", in), at + "self_attn.q_norm.weight", static_cast<std::int64_t>(t), l);
      Row o;
      for (std::size_t h = 0; h < q.size(); ++h) {
        const Row head = attend(l, static_cast<std::int64_t>(h), t, q[h], k, v);
        o.insert(o.end(), head.begin(), head.end());
      }
      Row h = linear(at + "self_attn.o_proj", o);
      for (std::size_t i = 0; i < h.size(); ++i) h[i] += x[t][i];
      const Row u = norm(h, at + "post_attention_layernorm.weight");
      Row gate = linear(at + "mlp.gate_proj", u);
      const Row up = linear(at + "mlp.up_proj", u);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
      const Row down = linear(at + "mlp.down_proj", gate);
      for (std::size_t i = 0; i < h.size(); ++i) x[t][i] = h[i] + down[i];
    }
  }
  Row attend(std::int64_t l, std::int64_t head, std::size_t t, const Row& q, const std::vector<std::vector<Row>>& k,
             const std::vector<Row>& v) const {
    const auto group = static_cast<std::size_t>(head / card_.group()), dim = static_cast<std::size_t>(card_.head_dim);
    const std::int64_t window = card_.layer[static_cast<std::size_t>(l)].window;
    double sum =
        card_.sinks.empty() ? 0.0 : std::exp(card_.sinks[static_cast<std::size_t>(l * card_.query_heads + head)]);
    Row out(dim);
    for (std::size_t j = 0; j <= t; ++j) {
      if (window > 0 && static_cast<std::int64_t>(t - j) >= window) continue;
      double logit = 0.0;
      for (std::size_t d = 0; d < dim; ++d) logit += q[d] * k[j][group][d];
      logit *= card_.scale;
      if (card_.softcap != 0.0f) logit = card_.softcap * std::tanh(logit / card_.softcap);
      sum += std::exp(logit);
      for (std::size_t d = 0; d < dim; ++d) out[d] += std::exp(logit) * v[j][group * dim + d];
    }
    for (double& value : out) value /= sum;
    return out;
  }

  const ModelConfig& config_;
  const ModelCard& card_;
  const Weights& weights_;
};

TEST(ModelOracle, EveryToggleDrawn) {
  for_all(17, 40, [](std::mt19937_64& rng) {
    const auto coin = [&] { return rng() % 2 == 0; };
    const std::int64_t kv_heads = 1 + static_cast<std::int64_t>(rng() % 3);
    RandomModel random(2, kv_heads * (1 + static_cast<std::int64_t>(rng() % 4)), kv_heads);
    ModelConfig& config = random.config;
    ModelCard& card = config.card;
    config.qkv_bias = coin(), config.o_bias = coin(), config.mlp_bias = coin();
    config.qk_norm = coin(), config.tied_embeddings = coin();
    config.rms_eps = coin() ? 1e-6f : 1e-2f;
    card.head_dim = coin() ? 8 : 10;
    card.scale = 0.3f;
    card.softcap = coin() ? 0.0f : 2.0f;
    for (LayerCard& layer : card.layer)
      layer = {.window = coin() ? 0 : 1 + static_cast<std::int64_t>(rng() % 20), .rope_set = coin()};
    if (coin())
      for (std::int64_t i = 0; i < card.layers * card.query_heads; ++i)
        card.sinks.push_back(static_cast<float>(i % 5) - 1);
    // Two sets; the second turns some dims only and scales.
    config.rope.resize(2);
    card.rope = {RopeSet{.inv_freq = {1.0f, 0.3f, 0.05f, 0.01f}},
                 RopeSet{.inv_freq = {0.7f, 0.02f}, .attention_factor = 1.25f}};
    random.fill();

    const auto ids = random_ids(30, card.vocab, rng());
    const std::vector<Row> expected = Plain(random).run(ids);
    const Array<float, 2> logits = whole_pass(*random.build(), ids);
    double worst = 0.0;
    for (std::int64_t t = 0; t < 30; ++t)
      for (std::int64_t i = 0; i < card.vocab; ++i) {
        const double want = expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)];
        const double error = std::abs(static_cast<double>(logits(t, i)) - want) / (1.0 + std::abs(want));
        if (!(error <= worst)) worst = error;
      }
    EXPECT_TRUE(worst <= 1e-4) << worst;
  });
}

}  // namespace
}  // namespace kvgrind::tests
