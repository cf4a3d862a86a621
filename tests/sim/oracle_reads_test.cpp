// Worked examples of published methods, reading, recomputing and storing: computed by hand from the formulas, on the
// fixture T8 and beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/engine/bound_policy.h"
#include "tests/sim/oracle_support.h"

namespace kvgrind::tests {
namespace {

using testing::ElementsAre;

TEST(KvDirect, ResidualsAgainstKeysAndValues) {
  SyntheticShape shape{.layers = 34, .query_heads = 4, .kv_heads = 4, .head_dim = 256, .tokens = 3, .rotary_dim = 0};
  std::mt19937_64 rng(4);
  SyntheticData data = random_data(rng, shape);
  data.card.hidden = 2560;
  const SyntheticSource source(data);
  EXPECT_EQ(source.card().kv_bytes_per_token(), 139264);
  const auto ledger = [&](const char* policy) {
    return run_engine(policy, source, {.amount = sim::parse_amount("1t")}).cache.ledger();
  };
  const sim::Ledger single = ledger("kvdirect-m"), layers = ledger("kvdirect-m(checkpoint=layers)");
  EXPECT_EQ(single.residual_bytes, 2 * 5120);
  EXPECT_EQ(layers.residual_bytes, 2 * 174080);
  EXPECT_EQ(single.stored_bytes(), 139264 + 2 * 5120);
  EXPECT_EQ(single.recomputed, 2 * 34 * 4);
}

TEST(DkvCache, StoredOneStepLater) {
  SyntheticShape shape{.layers = 1, .tokens = 12};
  std::mt19937_64 rng(5);
  const SyntheticSource source(random_data(rng, shape));
  // After step 4 (tokens 0 … 4 behind a prompt of 6): the newest is computed again, all others are served.
  const EngineRun run =
      run_engine("dkvcache(refresh=0)", source, {.amount = sim::parse_amount("1"), .compress_at = 6, .steps = 5});
  const auto states = run.cache.token_states(0, 0, sim::Part::key);
  for (std::size_t t = 0; t < 11; ++t) EXPECT_EQ(states[t], t == 10 ? 4 : 1) << t;
}

// T8 and one more token, which reads.
TEST(Reads, LoopServeAndAlisaChooseByTheLastQueries) {
  SyntheticData data = t8_attention();
  data.tokens = 9;
  for (auto* list : {&data.q, &data.k, &data.v})
    for (Array<float, 2>& x : *list) {
      Array<float, 2> longer({9, 8});
      std::copy_n(x.data(), 64, longer.data());
      x = std::move(longer);
    }
  const SyntheticSource source(data);
  const auto chosen = [&](const char* policy, const char* amount) {
    const sim::PolicyPtr bound = sim::bind_policy(policy);
    sim::CacheState cache(source.card());
    sim::PolicyRun run({.policy = bound, .amount = sim::parse_amount(amount)}, source, cache);
    source.feed(cache, 0, 8);
    run.segment_end(Role::context, 8, true);
    source.feed(cache, 8, 1);
    return run.read(0, 8, source.query_block(0, 8, 1)).slots.at(0).at(0);
  };
  // Sums over q6 and q7: .45 .5 .125 .525 .15 .1.
  EXPECT_THAT(chosen("loopserve-m(n=2)", "4t"), ElementsAre(1, 3, 6, 7, 8));
  const auto alisa = chosen("alisa-m(host=0)", "5t");
  EXPECT_EQ(alisa.size(), 5u);
  EXPECT_THAT(alisa, testing::IsSupersetOf({1, 3, 7, 8}));
}

TEST(SentenceKv, WholeSentencesUntilFull) {
  // Sentences {0, 1} with mean key (1, 0), {2, 3} with (0, 1), and the one being written from 5 on: its queries at 5
  // and 6 have the mean (.2, .9). Amount 4 and two later tokens, three recents: room for three.
  SyntheticData data = keys_of({{2, 0}, {0, 0}, {0, 2}, {0, 0}, {1, 1}, {0, 0}, {0, 0}});
  data.spans = {{"sentence", 0, 2, ""}, {"sentence", 2, 4, ""}, {"sentence", 4, 5, ""}, {"sentence", 5, 7, ""}};
  data.q[0](5, 0) = .1f, data.q[0](5, 1) = .8f;
  data.q[0](6, 0) = .3f, data.q[0](6, 1) = 1.0f;
  const SyntheticSource source(data);
  const sim::PolicyPtr policy = sim::bind_policy("sentencekv(window=1,pool=1,start=0,recent=3)");
  sim::CacheState cache(source.card());
  sim::PolicyRun run({.policy = policy, .amount = sim::parse_amount("4t")}, source, cache);
  source.feed(cache, 0, 5);
  run.segment_end(Role::context, 5, true);
  EXPECT_EQ(cache.ledger().k.tokens[1][1], 5);  // five times the amount waits on the host: everything
  source.feed(cache, 5, 1);
  // The first query of a sentence reads everything, as published.
  EXPECT_THAT(run.read(0, 5, source.query_block(0, 5, 1)).slots.at(0).at(0), ElementsAre(0, 1, 2, 3, 4, 5));
  run.step_done(5);
  source.feed(cache, 6, 1);
  EXPECT_THAT(run.read(0, 6, source.query_block(0, 6, 1)).slots.at(0).at(0), ElementsAre(0, 2, 3, 4, 5, 6));
  run.step_done(6);
  // Stored: the factor times the amount.
  EXPECT_EQ(kept(source, "sentencekv(window=1,pool=1,factor=2)", "2t", {.compress_at = 5}).size(), 4u);
}

TEST(MpCache, ClustersByMixedBounds) {
  // q = (1, −1). Three coarse clusters of two keys: (5, 5) twice scores 0; maxima (2, 1) and minima (0, −1) score
  // .6 · 1 + .4 · 1 = 1, where the bound of Quest is 3; (x, 0) twice scores x. One is looked into, one of six fine ones
  // read (ties: the first), with them the first and the ragged end.
  const auto read = [](float x, const char* ratios) {
    SyntheticData data = keys_of({{5, 5}, {5, 5}, {2, 1}, {0, -1}, {x, 0}, {x, 0}, {0, 0}});
    data.q[0](6, 0) = 1, data.q[0](6, 1) = -1;
    const SyntheticSource source(data);
    const sim::PolicyPtr policy = sim::bind_policy(std::string("mpcache(threshold=0,size=1,") + ratios + ")");
    sim::CacheState cache(source.card());
    sim::PolicyRun run({.policy = policy, .amount = sim::parse_amount("1")}, source, cache);
    source.feed(cache, 0, 6);
    run.segment_end(Role::context, 6, true);
    source.feed(cache, 6, 1);
    return run.read(0, 6, source.query_block(0, 6, 1)).slots.at(0).at(0);
  };
  EXPECT_THAT(read(.9f, "ratio1=0.34,ratio2=0.2"), ElementsAre(0, 2, 6));
  EXPECT_THAT(read(1.1f, "ratio1=0.34,ratio2=0.2"), ElementsAre(0, 4, 6));
  EXPECT_THAT(read(.9f, "ratio1=1,ratio2=1"), ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

}  // namespace
}  // namespace kvgrind::tests
