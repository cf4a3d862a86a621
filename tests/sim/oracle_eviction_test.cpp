// Worked examples of published eviction methods, on the fixture T8 and beside it: kept sets and scores computed by hand
// from the formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "sim/engine/bound_policy.h"
#include "tests/support/t8.h"

namespace kvgrind::tests {
namespace {

using Positions = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

std::vector<float> scores(const SyntheticSource& source, const std::string& call, std::int64_t at = 0) {
  return columns(source, call, sim::Granularity::kv_head, at).s;
}

TEST(T8, AttentionIsTheTable) {
  for (int head = 0; head < 2; ++head) {
    const auto table = t8_table(head);
    for (std::size_t i = 0; i < 8; ++i)
      for (std::size_t j = 0; j < table[i].size(); ++j)
        EXPECT_NEAR(attention().probabilities(0, head)(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j)),
                    table[i][j], 1e-6);
  }
  EXPECT_THAT(attention().column_sums(0, 0, 8),
              Pointwise(FloatNear(1e-5f), {3.6f, 1.35f, .95f, 1.3f, .45f, .2f, .1f, .05f}));
  EXPECT_THAT(attention().column_sums(0, 1, 8),
              Pointwise(FloatNear(1e-5f), {4.9f, 1.4f, .55f, .45f, .35f, .2f, .1f, .05f}));
}

TEST(Full, KeepsEverythingAndCountsItsBytes) {
  EXPECT_EQ(kept(attention(), "full", "0.1").size(), 8u);
  ModelCard card;
  card.layers = 32;
  card.query_heads = 32;
  card.kv_heads = 8;
  card.head_dim = 128;
  card.dtype = DType::f16;
  EXPECT_EQ(card.kv_bytes_per_token() * 1024, 134217728);
}

TEST(Random, RecallOfUniformAttentionIsTheShareKept) {
  // Uniform attention: recall is |kept|/S by construction, so the counts and the mean index are what can go wrong.
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 64, .rotary_dim = 0};
  std::mt19937_64 rng(5);
  const SyntheticSource source(random_data(rng, shape));
  std::vector<double> times(64, 0.0);
  constexpr int seeds = 1000;
  for (int seed = 0; seed < seeds; ++seed) {
    EngineSetup setup{.seed = static_cast<std::uint64_t>(seed)};
    const Positions set = kept(source, "random", "0.5", setup);
    ASSERT_EQ(set.size(), 32u);
    for (const std::int64_t position : set) times[static_cast<std::size_t>(position)] += 1.0 / seeds;
  }
  for (const double share : times) EXPECT_NEAR(share, 0.5, 0.08);  // five standard deviations
  EXPECT_NEAR(std::accumulate(times.begin(), times.begin() + 32, 0.0) / 32, 0.5, 0.01);
}

TEST(Random, SetsOfHeadsAndSequencesDiffer) {
  SyntheticShape shape{.tokens = 64};
  std::mt19937_64 rng(6);
  const SyntheticSource source(random_data(rng, shape));
  EngineSetup setup{.amount = sim::parse_amount("0.5")};
  const EngineRun run = run_engine("random", source, setup);
  EXPECT_NE(run.kept(0, 0), run.kept(0, 1));
  EXPECT_NE(run.kept(0, 0), run.kept(1, 0));
  setup.sequence = 1;
  EXPECT_NE(run.kept(0, 0), run_engine("random", source, setup).kept(0, 0));
  const EngineRun shared = run_engine("random(share=layer)", source, setup);
  EXPECT_EQ(shared.kept(0, 0), shared.kept(0, 1));
  EXPECT_NE(shared.kept(0, 0), shared.kept(1, 0));
  EXPECT_THAT(run_engine("random(sinks=4)", source, setup).kept(0, 0), testing::IsSupersetOf({0, 1, 2, 3}));
}

TEST(Window, LastThree) {
  EXPECT_THAT(kept(attention(), "window", "3t"), ElementsAre(5, 6, 7));
  EXPECT_THAT(kept(attention(), "window", "3t", {.compress_at = 5, .steps = 3}), ElementsAre(5, 6, 7));
  double recall = 0;
  for (const std::int64_t j : {5, 6, 7}) recall += static_cast<double>(attention().probabilities(0, 0)(7, j));
  EXPECT_NEAR(recall, 0.15, 1e-6);
}

TEST(StreamingLlm, SinksAndRecents) {
  SyntheticShape shape{.tokens = 10};
  std::mt19937_64 rng(7);
  const SyntheticSource source(random_data(rng, shape));
  for (const char* policy : {"streamingllm(sinks=2)", "streamingllm(sinks=2,like=kvpress)"})
    EXPECT_THAT(kept(source, policy, "5t"), ElementsAre(0, 1, 7, 8, 9)) << policy;
  // B ≤ sinks: B of the sinks and no recent token.
  EXPECT_THAT(kept(source, "streamingllm(sinks=4)", "3t"), ElementsAre(0, 1, 2));
  // kvpress prunes [sinks, sinks + S − int(S(1−r))).
  EngineSetup setup{.amount = {sim::Amount::Kind::removed, 0.6}};
  EXPECT_THAT(run_engine("streamingllm(sinks=2,like=kvpress)", source, setup).kept(0, 0), ElementsAre(0, 1, 8, 9));
  EXPECT_THAT(kept(attention(), "streamingllm(sinks=1)", "3t"), ElementsAre(0, 6, 7));
}

TEST(StreamingLlm, CompactPositionsRotateByTheGap) {
  SyntheticShape shape{.layers = 1, .tokens = 10};
  std::mt19937_64 rng(8);
  const SyntheticSource source(random_data(rng, shape));
  EngineSetup setup{.amount = sim::parse_amount("5t")};
  const EngineRun run = run_engine("streamingllm(sinks=2)", source, setup);
  const sim::GroupSlots& slots = run.cache.group(0, 0);
  EXPECT_THAT(slots.rotary, ElementsAre(5, 6, 7, 8, 9));
  // A query at 10 sees slot r as one at position 5 would in a cache that starts at 0: each complex pair of key 1 is
  // multiplied by exp(i·5·ω).
  const auto& inv_freq = source.card().rope[0].inv_freq;
  const Array<float, 2>& k = source.data().k[0];
  for (std::size_t m = 0; m < inv_freq.size(); ++m) {
    const auto lo = static_cast<std::int64_t>(m), hi = lo + static_cast<std::int64_t>(inv_freq.size());
    const double c = std::cos(5.0 * inv_freq[m]), s = std::sin(5.0 * inv_freq[m]);
    EXPECT_NEAR(slots.keys()(1, lo), k(1, lo) * c - k(1, hi) * s, 1e-4);
    EXPECT_NEAR(slots.keys()(1, hi), k(1, lo) * s + k(1, hi) * c, 1e-4);
  }
  for (std::int64_t d = 0; d < 8; ++d) EXPECT_EQ(slots.keys()(4, d), k(9, d));  // no gap, not touched
}

TEST(H2O, HeavyAndRecent) {
  EXPECT_THAT(scores(attention(), "column_sum"),
              Pointwise(FloatNear(1e-5f), {4.25f, 1.375f, .75f, .875f, .4f, .2f, .1f, .05f}));
  EXPECT_THAT(kept(attention(), "h2o(variant=prefill)", "4t"), ElementsAre(0, 1, 6, 7));
  EXPECT_THAT(kept(attention(), "h2o(variant=online)", "4t"), ElementsAre(0, 1, 6, 7));
}

// The published loop, plainly: sums over surviving slots, rows renormalised over them, one eviction a step.
TEST(H2O, OnlineEqualsThePlainLoop) {
  const auto rows = [](std::int64_t i, std::int64_t j) {
    return 0.5 * (static_cast<double>(attention().probabilities(0, 0)(i, j)) +
                  static_cast<double>(attention().probabilities(0, 1)(i, j)));
  };
  const std::int64_t prompt = 5, budget = 4, recent = 2;
  Positions alive;
  std::vector<double> sum(8, 0.0);
  for (std::int64_t j = 0; j < prompt; ++j) {
    alive.push_back(j);
    for (std::int64_t i = j; i < prompt; ++i) sum[static_cast<std::size_t>(j)] += rows(i, j);
  }
  const auto evict = [&] {
    while (static_cast<std::int64_t>(alive.size()) > budget) {
      auto worst = alive.begin();
      for (auto it = alive.begin(); it != alive.end() - recent; ++it)
        if (sum[static_cast<std::size_t>(*it)] <= sum[static_cast<std::size_t>(*worst)]) worst = it;
      alive.erase(worst);
    }
  };
  evict();
  for (std::int64_t t = prompt; t < 8; ++t) {
    alive.push_back(t);
    for (int head = 0; head < 2; ++head) {
      double mass = 0;
      for (const std::int64_t j : alive) mass += static_cast<double>(attention().probabilities(0, head)(t, j));
      for (const std::int64_t j : alive)
        sum[static_cast<std::size_t>(j)] += 0.5 * static_cast<double>(attention().probabilities(0, head)(t, j)) / mass;
    }
    evict();
    EXPECT_EQ(kept(attention(), "h2o", "4t", {.compress_at = prompt, .steps = t - prompt + 1}), alive) << t;
  }
}

TEST(Observed, ByExposure) {
  EXPECT_THAT(scores(attention(), "observed_attention"),
              Pointwise(FloatNear(1e-4f), {.5313f, .1964f, .125f, .175f, .1f, .0667f, .05f, .05f}));
  EXPECT_THAT(kept(attention(), "observed", "3t"), ElementsAre(0, 1, 3));
}

TEST(Tova, LastRow) {
  EXPECT_THAT(scores(attention(), "last_query"),
              Pointwise(FloatNear(1e-5f), {.2f, .275f, .05f, .275f, .05f, .05f, .05f, .05f}));
  EXPECT_THAT(kept(attention(), "tova", "3t"), ElementsAre(0, 1, 3));
  EXPECT_THAT(kept(attention(), "tova(like=kvpress)", "4t"), ElementsAre(0, 1, 3, 7));
}

TEST(Tova, OneSetForTheLayer) {
  SyntheticShape shape{.tokens = 40};
  std::mt19937_64 rng(9);
  const SyntheticSource source(random_data(rng, shape));
  const EngineRun run = run_engine("tova", source, {.amount = sim::parse_amount("10t"), .compress_at = 30, .steps = 8});
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(run.kept(layer, 0).size(), 10u);
    EXPECT_EQ(run.kept(layer, 0), run.kept(layer, 1));
  }
}

TEST(SnapKv, PoolingChangesTheAnswer) {
  const std::string window = "window_attention(window=2,pool=";
  constexpr float always = std::numeric_limits<float>::infinity();
  EXPECT_THAT(scores(attention(), window + "3,kernel=avg)"),
              Pointwise(FloatNear(1e-4f), {.1583f, .1792f, .1917f, .1333f, .1292f, .0417f, always, always}));
  EXPECT_THAT(scores(attention(), window + "1)"),
              Pointwise(FloatNear(1e-4f), {.225f, .25f, .0625f, .2625f, .075f, .05f, always, always}));
  EXPECT_THAT(scores(attention(), window + "3,kernel=max)"),
              Pointwise(FloatNear(1e-4f), {.35f, .35f, .45f, .2625f, .2625f, .075f, always, always}));
  EXPECT_THAT(scores(attention(), window + "3,kernel=avg,reduce=max)"),
              Pointwise(FloatNear(1e-4f), {.2167f, .2417f, .2f, .1917f, .1917f, .0417f, always, always}));
  EXPECT_THAT(kept(attention(), "snapkv(window=2,pool=3,kernel=avg)", "4t"), ElementsAre(1, 2, 6, 7));
  EXPECT_THAT(kept(attention(), "snapkv(window=2,pool=1)", "4t"), ElementsAre(1, 3, 6, 7));
  // Below the window the newest of it stay.
  EXPECT_THAT(kept(attention(), "snapkv(window=4,pool=1)", "2t"), ElementsAre(6, 7));
}

TEST(SnapKv, OfficialKeepsACachePerQueryHead) {
  const EngineRun run =
      run_engine("snapkv(like=official,window=2,pool=1)", attention(), {.amount = sim::parse_amount("4t")});
  EXPECT_EQ(run.cache.heads(), 2);
  EXPECT_THAT(run.kept(0, 0), ElementsAre(0, 3, 6, 7));  // head 0: .25 .05 .05 .45
  EXPECT_THAT(run.kept(0, 1), ElementsAre(0, 1, 6, 7));  // head 1: .2 .45
  // Two copies of 4 tokens take what one full copy of 8 does.
  const sim::Ledger ledger = run.cache.ledger();
  EXPECT_EQ(ledger.stored_bytes(), ledger.full_bytes);
}

TEST(KNorm, SmallestNorms) {
  EXPECT_THAT(scores(geometry(), "key_norm"),
              Pointwise(FloatNear(1e-4f), {-1.f, -1.f, -1.4142f, -2.f, -2.f, -1.f, -1.4142f, -5.f}));
  EXPECT_THAT(kept(geometry(), "knorm", "3t"), ElementsAre(0, 1, 5));
}

TEST(KeyDiff, AwayFromTheMean) {
  EXPECT_THAT(scores(geometry(), "key_diff"),
              Pointwise(FloatNear(1e-4f), {-.7327f, -.6806f, -.9993f, -.7327f, -.6806f, .7327f, -.0368f, -.9841f}));
  EXPECT_THAT(kept(geometry(), "keydiff", "4t"), ElementsAre(1, 4, 5, 6));
}

TEST(ExpectedAttention, MeanRotationOfAGaussian) {
  // Two keys at positions 6 and 7 behind six sinks; queries at both positions are R(t)·x, so that pre-RoPE they are x.
  SyntheticData data;
  data.tokens = 8;
  data.card.layers = data.card.query_heads = data.card.kv_heads = 1;
  data.card.head_dim = 2;
  data.card.scale = 1.0f / std::sqrt(2.0f);
  data.card.layer.resize(1);
  data.card.rope = {RopeSet{.inv_freq = {1.0f}}};
  data.q = {Array<float, 2>({8, 2})};
  data.k = {Array<float, 2>({8, 2})};
  data.v = {Array<float, 2>({8, 2})};
  data.k[0](6, 0) = data.k[0](7, 1) = 1.0f;
  data.v[0](6, 0) = data.v[0](7, 1) = 1.0f;
  const auto with = [&](float first, float second) {
    for (const std::int64_t t : {6, 7}) {
      const float x = t == 6 ? first : second;
      data.q[0](t, 0) = x * std::cos(static_cast<float>(t));
      data.q[0](t, 1) = x * std::sin(static_cast<float>(t));
    }
    const SyntheticSource source(data);
    return scores(source, "expected_attention(future=2,sinks=6)");
  };
  const auto mean = with(1, 1);  // μ = (1, 0), Σ = 0
  EXPECT_NEAR(mean[6], .2954, 1e-4);
  EXPECT_NEAR(mean[7], .7046, 1e-4);
  EXPECT_EQ(mean[0], std::numeric_limits<float>::infinity());
  const auto spread = with(0, 2);  // μ = (1, 0), Σ = diag(1, 0)
  EXPECT_NEAR(spread[6], .2845, 1e-4);
  EXPECT_NEAR(spread[7], .7155, 1e-4);
}

// The other two oracles against plain loops over the full cache's attention of the two queries to come.
TEST(Oracle, RemovalsAndNextUses) {
  std::mt19937_64 rng(44);
  SyntheticShape shape{.layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .tokens = 14};
  const SyntheticSource source(random_data(rng, shape));
  const std::int64_t at = 10;
  std::vector<double> error(10, 0.0), use(10, 4.0);
  for (int head = 0; head < 2; ++head)
    for (std::int64_t i = at; i < 14; ++i) {
      const auto p = source.probabilities(0, head);
      double held = 0;
      std::vector<double> o(8, 0.0);
      for (std::int64_t j = 0; j < at; ++j) held += static_cast<double>(p(i, j));
      const auto v = [&](std::int64_t j, std::int64_t d) { return static_cast<double>(source.data().v[0](j, d)); };
      for (std::int64_t j = 0; j < at; ++j)
        for (std::int64_t d = 0; d < 8; ++d)
          o[static_cast<std::size_t>(d)] += static_cast<double>(p(i, j)) / held * v(j, d);
      for (std::int64_t j = 0; j < at; ++j) {
        const double a = static_cast<double>(p(i, j));
        for (std::int64_t d = 0; d < 8; ++d)
          error[static_cast<std::size_t>(j)] += std::pow(a / (1 - a) * (v(j, d) - o[static_cast<std::size_t>(d)]), 2);
        if (a > 0.1) use[static_cast<std::size_t>(j)] = std::min(use[static_cast<std::size_t>(j)], double(i - at));
      }
    }
  const auto found = scores(source, "removal_error", at), soon = scores(source, "next_use", at);
  std::set<float> different;
  for (std::size_t j = 0; j < 10; ++j) {
    EXPECT_NEAR(static_cast<double>(found[j]), error[j], 1e-4 * std::max(1.0, error[j])) << j;
    EXPECT_EQ(static_cast<double>(soon[j]), -use[j]) << j;
    different.insert(soon[j]);
  }
  EXPECT_GT(different.size(), 1u);
}

// Half the attention on v = 0, half on (2, 0): without either the output (1, 0) moves by 1.
TEST(Oracle, OneRemovalByHand) {
  SyntheticShape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 2, .tokens = 3, .rotary_dim = 0};
  std::mt19937_64 rng(45);
  SyntheticData data = random_data(rng, shape);
  for (std::int64_t d = 0; d < 2; ++d) {
    for (std::int64_t t = 0; t < 3; ++t) data.k[0](t, d) = data.v[0](t, d) = 0;
    data.q[0](2, d) = 1;
    data.k[0](2, d) = -1000;  // the query itself takes nothing
  }
  data.v[0](0, 0) = 2;
  EXPECT_THAT(scores(SyntheticSource(data), "removal_error", 2), Pointwise(FloatNear(1e-5f), {1.0f, 1.0f}));
  EXPECT_THAT(scores(SyntheticSource(data), "next_use", 2), ElementsAre(-1.0f, -1.0f));  // half is not above 1/2
  EXPECT_THAT(scores(SyntheticSource(data), "next_use(above=0.4)", 2), ElementsAre(0.0f, 0.0f));
}

TEST(Oracle, FutureMass) {
  EXPECT_THAT(scores(attention(), "future_attention(reduce=mean)", 6),
              Pointwise(FloatNear(1e-4f), {.45f, .5f, .125f, .525f, .15f, .1f}));
  EXPECT_THAT(kept(attention(), "oracle", "2t", {.compress_at = 6}), ElementsAre(1, 3));
  double held = 0, past = 0;
  for (int head = 0; head < 2; ++head)
    for (const std::int64_t i : {6, 7})
      for (std::int64_t j = 0; j < 6; ++j) {
        const auto p = static_cast<double>(attention().probabilities(0, head)(i, j));
        past += p;
        if (j == 1 || j == 3) held += p;
      }
  EXPECT_NEAR(held / past, .5541, 1e-4);
}

TEST(PyramidKv, PublishedArithmetic) {
  const auto layers = [](std::int64_t count, std::int64_t tokens, const std::string& call, sim::Amount amount) {
    ModelCard card;
    card.layers = count;
    card.query_heads = card.kv_heads = 1;
    card.head_dim = 2;
    const sim::BoundCall bound = sim::bind_call("budget", parse_call(call), call);
    std::vector<sim::BudgetGroup> groups;
    double real = amount.value;
    std::int64_t base = static_cast<std::int64_t>(real);
    if (amount.kind == sim::Amount::Kind::removed) {
      real = static_cast<double>(tokens) * (1 - amount.value);
      base = static_cast<std::int64_t>(real);
    }
    for (std::int64_t layer = 0; layer < count; ++layer)
      groups.push_back({layer, 0, tokens, tokens, base, real, {}, 0});
    const sim::RunFacts facts{.card = &card};
    const SyntheticSource& source = attention();
    sim::Memory memory;
    std::get<const sim::BudgetRow*>(bound.row)->allocate({bound.params, facts, {}, source, amount, groups, memory});
    std::vector<std::int64_t> out;
    for (const auto& group : groups) out.push_back(group.kept);
    return out;
  };
  const auto tokens = [](double n) { return sim::Amount{sim::Amount::Kind::tokens, n}; };
  const auto removed = [](double r) { return sim::Amount{sim::Amount::Kind::removed, r}; };
  const auto sum = [](const std::vector<std::int64_t>& list) {
    return std::accumulate(list.begin(), list.end(), std::int64_t{0});
  };
  const std::string factory8 = "pyramid(beta=20,window=8,arithmetic=factory)";
  EXPECT_THAT(layers(4, 512, factory8, tokens(64)), ElementsAre(118, 82, 46, 10));  // [110 74 38 2] and the window
  const auto big = layers(32, 8192, "pyramid(beta=20,window=32,arithmetic=factory)", tokens(2048));
  EXPECT_EQ(big.front(), 3932 + 32);
  EXPECT_EQ(big[0] - big[1], 123);
  EXPECT_EQ(big.back(), 119 + 32);
  EXPECT_EQ(sum(big), 64816 + 32 * 32);
  EXPECT_THAT(layers(4, 60, factory8, tokens(64)), ElementsAre(60, 60, 60, 60));   // S < C
  EXPECT_THAT(layers(4, 100, factory8, tokens(64)), ElementsAre(64, 64, 64, 64));  // C ≤ S < 2(C − w)

  const std::string kvpress = "pyramid(beta=20,window=64,arithmetic=kvpress)";
  const auto strong = layers(32, 8192, kvpress, removed(0.8));
  EXPECT_EQ(strong.front(), 3195);
  EXPECT_EQ(strong.back(), 82);
  EXPECT_THAT(layers(32, 8192, kvpress, removed(0.9)), testing::Each(819));
  EXPECT_THAT(layers(4, 512, kvpress, removed(0.5)), ElementsAre(448, 320, 192, 64));
  EXPECT_THAT(layers(4, 512, kvpress, removed(0.75)), testing::Each(128));
  EXPECT_THAT(layers(4, 1000, kvpress, removed(0.6333)), testing::Each(367));

  for (std::int64_t base = 33; base < 400; base += 7) {
    const auto exact = layers(7, 400, "pyramid(beta=20,window=32,arithmetic=exact)", tokens(static_cast<double>(base)));
    EXPECT_EQ(sum(exact), 7 * base);
    EXPECT_TRUE(std::is_sorted(exact.rbegin(), exact.rend()) || exact.front() - exact.back() <= 1);
    EXPECT_THAT(exact, testing::Each(testing::AllOf(testing::Ge(32), testing::Le(400))));
  }
}

}  // namespace
}  // namespace kvgrind::tests
