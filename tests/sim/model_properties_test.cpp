// What must hold whatever the weights: decode = prefill, chunked = whole, batch = alone, threads, windows, slots.
#include <gtest/gtest.h>

#include <deque>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/sim/model_support.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

RandomModel random_model(std::int64_t window = 0) {
  RandomModel random(3);
  random.config.qk_norm = random.config.qkv_bias = true;
  random.config.card.layer[1].window = window;
  return random.fill();
}

void expect_close(std::span<const float> got, std::span<const float> want, double tolerance) {
  const double difference = largest_difference(got, want);
  EXPECT_TRUE(difference <= tolerance) << difference;
}
void expect_equal(const Array<float, 2>& got, const Array<float, 2>& want) {
  EXPECT_EQ(largest_difference(flat(got), flat(want)), 0.0);
}

struct Threads {  // restores all cores
  explicit Threads(int n) { set_thread_count(n); }
  ~Threads() { set_thread_count(0); }
};

TEST(ModelProperties, DecodeIsPrefill) {
  const RandomModel random = random_model(9);
  const auto model = random.build();
  const auto ids = random_ids(90, random.config.card.vocab);
  KeepingTap whole_tap(3), step_tap(3);
  const Array<float, 2> whole = whole_pass(*model, ids, &whole_tap);
  const auto cache = sim::full_cache(random.config.card);
  std::vector<float> steps;
  for (std::int64_t t = 0; t < 90; ++t) {
    const sim::Feed feed{.first = t,
                         .ids = std::span(ids).subspan(static_cast<std::size_t>(t), 1),
                         .cache = cache.get(),
                         .tap = &step_tap,
                         .decode = true,
                         .logits_of = {0}};
    const auto logits = std::move(sim::forward(*model, {&feed, 1})[0]);
    steps.insert(steps.end(), flat(logits).begin(), flat(logits).end());
  }
  expect_close(steps, flat(whole), 1e-4);
  for (std::int64_t l = 0; l < 3; ++l) {
    expect_close(step_tap.at(l).lse, whole_tap.at(l).lse, 1e-4);
    expect_close(step_tap.at(l).k, whole_tap.at(l).k, 1e-4);
  }
  EXPECT_EQ(step_tap.passes.size(), 90u);
}

// Bitwise, for everything that can be seen, and wherever a sequence starts.
TEST(ModelProperties, ChunkedIsWhole) {
  const RandomModel random = random_model(100);
  const auto model = random.build();
  const auto ids = random_ids(333, random.config.card.vocab);
  for (const std::int64_t fork : {0, 45}) {
    const auto run = [&](std::int64_t chunk, KeepingTap& tap) {
      const auto cache = sim::full_cache(random.config.card);
      const sim::Feed front{.ids = std::span(ids).first(static_cast<std::size_t>(fork)), .cache = cache.get()};
      sim::prefill(*model, front, 512);
      const sim::Feed feed{.first = fork,
                           .ids = std::span(ids).subspan(static_cast<std::size_t>(fork)),
                           .cache = cache.get(),
                           .tap = &tap,
                           .logits_of = {332 - fork, 0, 70, 191}};
      return sim::prefill(*model, feed, chunk);
    };
    KeepingTap whole(3, true);
    const Array<float, 2> expected = run(512, whole);
    EXPECT_EQ(whole.passes.size(), 1u);
    for (const std::int64_t chunk : {64, 100, 128, 192}) {
      KeepingTap tap(3, true);
      expect_equal(run(chunk, tap), expected);
      EXPECT_GT(tap.passes.size(), 1u);
      EXPECT_EQ(tap.final_residual, whole.final_residual);
      for (std::int64_t l = 0; l < 3; ++l) {
        EXPECT_EQ(tap.at(l).q, whole.at(l).q);
        EXPECT_EQ(tap.at(l).lse, whole.at(l).lse);
        EXPECT_EQ(tap.at(l).attn_out, whole.at(l).attn_out);
        EXPECT_EQ(tap.at(l).column_sum, whole.at(l).column_sum);
      }
    }
  }
}

TEST(ModelProperties, ThreadsDoNotMatter) {
  const RandomModel random = random_model(30);
  const auto model = random.build();
  const auto ids = random_ids(300, random.config.card.vocab);
  const auto run = [&](int threads) {
    const Threads limit(threads);
    return whole_pass(*model, ids);
  };
  const Array<float, 2> one = run(1);
  expect_equal(run(2), one);
  expect_equal(run(5), one);
}

// Sequences of different lengths, at different places, with and without taps, in one call.
TEST(ModelProperties, BatchIsEachAlone) {
  const RandomModel random = random_model(20);
  const auto model = random.build();
  for_all(11, 5, [&](std::mt19937_64& rng) {
    const std::size_t n = 1 + rng() % 5;
    std::vector<std::vector<std::int32_t>> ids;
    std::vector<std::unique_ptr<sim::KvCache>> joint_cache, own_cache;
    std::deque<KeepingTap> taps;
    std::vector<sim::Feed> joint;
    std::vector<Array<float, 2>> alone;
    for (std::size_t f = 0; f < n; ++f) {
      const auto front = static_cast<std::int64_t>(rng() % 70), fed = static_cast<std::int64_t>(1 + rng() % 80);
      ids.push_back(random_ids(front + fed, random.config.card.vocab, rng()));
      for (auto* caches : {&joint_cache, &own_cache}) {
        caches->push_back(sim::full_cache(random.config.card));
        sim::prefill(*model,
                     {.ids = std::span(ids[f]).first(static_cast<std::size_t>(front)), .cache = caches->back().get()});
      }
      sim::Feed feed{.sequence = static_cast<std::int64_t>(f),
                     .first = front,
                     .ids = std::span(ids[f]).subspan(static_cast<std::size_t>(front)),
                     .cache = own_cache[f].get(),
                     .logits_of = {fed - 1, static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(fed))}};
      alone.push_back(std::move(sim::forward(*model, {&feed, 1})[0]));
      feed.cache = joint_cache[f].get();
      if (rng() % 2) feed.tap = &taps.emplace_back(3);
      joint.push_back(feed);
    }
    const auto together = sim::forward(*model, joint);
    for (std::size_t f = 0; f < n; ++f) expect_equal(together[f], alone[f]);
  });
}

// In a layer of window W the token exactly W back is invisible, the one W − 1 back is not. One layer, so that nothing
// reaches further by way of other tokens.
TEST(ModelProperties, WindowEdge) {
  constexpr std::int64_t window = 8, last = 99;
  RandomModel random(1);
  random.config.card.layer[0].window = window;
  const auto model = random.fill().build();
  const auto last_logits = [&](std::int64_t changed) {
    auto ids = random_ids(last + 1, random.config.card.vocab);
    if (changed >= 0) ids[static_cast<std::size_t>(changed)] ^= 1;
    const Array<float, 2> all = whole_pass(*model, ids);
    return std::vector<float>(flat(all).end() - all.extent(1), flat(all).end());
  };
  const auto plain = last_logits(-1);
  EXPECT_EQ(last_logits(last - window), plain);
  EXPECT_NE(last_logits(last - window + 1), plain);
}

TEST(ModelProperties, WrongTokenIsRefused) {
  RandomModel random(1);
  const auto model = random.fill().build();
  for (const std::int32_t wrong : {-1, 70}) {
    const std::vector<std::int32_t> ids = {1, wrong};
    try {
      whole_pass(*model, ids);
      FAIL() << "id " << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::usage);
      EXPECT_NE(std::string(error.what()).find(std::to_string(wrong)), std::string::npos);
    }
  }
}

TEST(ModelProperties, NothingFedNothingDone) {
  RandomModel random(1);
  const auto model = random.fill().build();
  const auto cache = sim::full_cache(random.config.card);
  const sim::Feed feed{.cache = cache.get()};
  EXPECT_EQ(sim::forward(*model, {&feed, 1})[0].extent(0), 0);
  EXPECT_TRUE(sim::forward(*model, {}).empty());
}

// NaN and infinity in weights run through and reach the logits; nothing crashes.
TEST(ModelProperties, DamagedNumbersRunThrough) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e38f}) {
    for (const char* name : {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
                             "model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"}) {
      RandomModel random(2);
      random.fill();
      Tensor& tensor = random.weights.tensors.at(name);
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      to_f32(tensor.dtype, tensor.data, tensor.elements(), values.data());
      values[values.size() / 2] = bad;
      tensor.data = reinterpret_cast<const std::byte*>(values.data());
      const auto model = random.build();
      auto ids = random_ids(100, random.config.card.vocab);
      ids[50] = 35;  // the row of the embedding that is bad
      KeepingTap tap(2, true, true);
      const Array<float, 2> logits = whole_pass(*model, ids, &tap);
      const std::int32_t next = sim::sample(flat(logits).last(70), {}, 0, 0);
      EXPECT_GE(next, 0);
      EXPECT_LT(next, 70);
      EXPECT_TRUE(!std::isnan(bad) || std::isnan(flat(logits).back())) << name;
    }
  }
}

}  // namespace
}  // namespace kvgrind::tests
