// Properties of runs: counts, nesting, threads, schedules, reading, NaN.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "tests/support/for_all.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

using sim::Amount;
using testing::Each;
using testing::ElementsAre;

Amount tokens(std::int64_t n) { return {Amount::Kind::tokens, static_cast<double>(n)}; }
Amount fraction(double share) { return {Amount::Kind::fraction, share}; }

// Every preset in every variant.
std::vector<std::string> all_presets() {
  std::vector<std::string> out;
  for (const sim::MethodCard& card : sim::method_cards())
    for (const auto& like : sim::read_method(card).like) out.push_back(card.name + "(like=" + like.name + ")");
  out.push_back("h2o(variant=prefill)");
  return out;
}

// The same; those that do not use the amount with the parameters that turn them off.
std::vector<std::string> presets_turned_off() {
  std::vector<std::string> out = all_presets();
  for (const sim::MethodCard& card : sim::method_cards())
    if (const std::string identity = sim::read_method(card).identity; !identity.empty())
      for (std::string& preset : out)
        if (preset.starts_with(card.name + "(")) preset.insert(card.name.size() + 1, identity + ",");
  return out;
}

SyntheticSource make_source(std::uint64_t seed, SyntheticShape shape = {.tokens = 160}) {
  std::mt19937_64 rng(seed);
  return SyntheticSource(random_data(rng, shape));
}

std::vector<std::vector<std::int64_t>> sets_of(const EngineRun& run) {
  std::vector<std::vector<std::int64_t>> out;
  for (std::int64_t layer = 0; layer < run.cache.layers(); ++layer)
    for (std::int64_t group = 0; group < run.cache.heads(); ++group) out.push_back(run.kept(layer, group));
  return out;
}

TEST(Run, FullBudgetDropsNothingAndChangesNothing) {
  const SyntheticSource source = make_source(1);
  for (const std::string& preset : presets_turned_off()) {
    const sim::PolicyPtr policy = sim::bind_policy(preset);
    for (const Amount amount : {fraction(1.0), Amount{Amount::Kind::removed, 0.0}}) {
      const EngineRun run = run_engine(preset, source, {.amount = amount, .compress_at = 150, .steps = 10});
      if (sim::count_class(*policy) != sim::CountClass::fixed && policy->schedule.name() != "never") {
        EXPECT_GT(run.slots_called, 0) << preset;
      }
      sim::CacheState full(source.card(), sim::cache_granularity(*policy));
      source.feed(full, 0, 160);
      for (std::int64_t layer = 0; layer < 2; ++layer)
        for (std::int64_t group = 0; group < full.heads(); ++group) {
          EXPECT_EQ(run.kept(layer, group).size(), 160u) << preset;
          EXPECT_EQ(run.cache.group(layer, group).k, full.group(layer, group).k) << preset;
          EXPECT_EQ(run.cache.group(layer, group).v, full.group(layer, group).v) << preset;
        }
    }
  }
}

TEST(Run, OneBelowFullOneTokenGoes) {
  const SyntheticSource source = make_source(2);
  for (const std::string& preset : all_presets()) {
    const sim::PolicyPtr policy = sim::bind_policy(preset);
    if (sim::count_class(*policy) != sim::CountClass::exact || policy->schedule.name() == "never") continue;
    const EngineRun run = run_engine(preset, source, {.amount = tokens(159)});
    for (const auto& set : sets_of(run)) EXPECT_EQ(set.size(), 159u) << preset;
    EXPECT_THAT(run.requested, Each(159));
    EXPECT_THAT(run.effective, Each(159));
  }
}

TEST(Run, CountsAreExactAndSetsSorted) {
  const SyntheticSource source = make_source(3);
  for (const std::string& preset : all_presets()) {
    const sim::PolicyPtr policy = sim::bind_policy(preset);
    if (sim::count_class(*policy) != sim::CountClass::exact || policy->schedule.name() == "never") continue;
    for (const double share : {0.05, 0.1, 0.2, 0.33, 0.5, 0.8, 0.9, 0.99}) {
      const EngineRun run = run_engine(preset, source, {.amount = fraction(share)});
      const auto want = static_cast<std::size_t>(std::floor(160 * share + 1e-9));
      for (const auto& set : sets_of(run)) {
        EXPECT_EQ(set.size(), want) << preset << " " << share;
        EXPECT_EQ(std::adjacent_find(set.begin(), set.end(), std::greater_equal<>()), set.end()) << "sorted, unique";
        EXPECT_TRUE(std::adjacent_find(set.begin(), set.end()) == set.end());
      }
      const EngineRun removed = run_engine(preset, source, {.amount = {Amount::Kind::removed, share}});
      for (const auto& set : sets_of(removed))
        EXPECT_EQ(set.size(), static_cast<std::size_t>(160 * (1 - share))) << preset << " removed " << share;
    }
  }
}

TEST(Run, StaticTopKNestsOverBudgets) {
  const SyntheticSource source = make_source(4);
  for (const char* preset : {"random", "observed", "snapkv", "knorm", "keydiff", "expected_attention", "oracle",
                             "streamingllm(like=kvpress)", "tova(like=kvpress)"}) {
    std::vector<std::vector<std::int64_t>> smaller;
    for (std::int64_t n = 1; n <= 160; n += 13) {
      const auto sets = sets_of(run_engine(preset, source, {.amount = tokens(n)}));
      for (std::size_t g = 0; g < smaller.size(); ++g)
        EXPECT_TRUE(std::includes(sets[g].begin(), sets[g].end(), smaller[g].begin(), smaller[g].end()))
            << preset << " " << n;
      smaller = sets;
    }
  }
}

TEST(Run, SameForAnyNumberOfThreads) {
  const SyntheticSource source = make_source(5, {.layers = 3, .tokens = 100});
  const int threads = thread_count();
  for (const std::string& preset : all_presets()) {
    set_thread_count(1);
    const EngineRun one = run_engine(preset, source, {.amount = fraction(0.3), .compress_at = 80, .steps = 20});
    set_thread_count(2);
    const EngineRun two = run_engine(preset, source, {.amount = fraction(0.3), .compress_at = 80, .steps = 20});
    EXPECT_EQ(sets_of(one), sets_of(two)) << preset;
    EXPECT_EQ(one.cache.group(1, 0).k, two.cache.group(1, 0).k) << preset;
  }
  set_thread_count(threads);
}

TEST(Run, SequencesDoNotTouchEachOther) {
  // Two sequences in either order, interleaved and alone: the same sets.
  const SyntheticSource a = make_source(6, {.tokens = 60}), b = make_source(7, {.tokens = 60});
  for (const char* preset : {"h2o", "random", "tova"}) {
    EngineSetup setup{.amount = fraction(0.25), .compress_at = 50, .steps = 10, .sequence = 1};
    const auto alone = sets_of(run_engine(preset, a, setup));
    setup.sequence = 2;
    (void)run_engine(preset, b, setup);
    setup.sequence = 1;
    EXPECT_EQ(sets_of(run_engine(preset, a, setup)), alone) << preset;
  }
}

TEST(Run, OneShotKeepsLaterTokensStepHoldsTheBudget) {
  const SyntheticSource source = make_source(8, {.tokens = 60});
  const EngineSetup setup{.amount = tokens(20), .compress_at = 40, .steps = 20};
  EXPECT_EQ(run_engine("knorm", source, setup).kept(0, 0).size(), 40u);
  EXPECT_EQ(run_engine("tova", source, setup).kept(0, 0).size(), 20u);
  EXPECT_EQ(run_engine("score=key_norm schedule=every(n=8)", source, setup).kept(0, 0).size(), 24u);  // 20 + 20 % 8
  // A fraction is of the tokens seen so far.
  EXPECT_EQ(run_engine("tova", source, {.amount = fraction(0.5), .compress_at = 40, .steps = 20}).kept(0, 0).size(),
            30u);
}

TEST(Run, ChunksHoldTheBudgetDuringPrefill) {
  const SyntheticSource source = make_source(9, {.tokens = 64});
  std::size_t largest = 0;
  EngineSetup setup{.amount = tokens(16), .chunk = 8};
  setup.on_plan = [&](const sim::GroupPlan& plan) { largest = std::max(largest, plan.keep.size()); };
  const EngineRun run = run_engine("score=key_diff schedule=chunk(size=8)", source, setup);
  EXPECT_EQ(run.kept(0, 0).size(), 16u);
  EXPECT_EQ(largest, 24u);
  largest = 0;
  (void)run_engine("score=key_diff schedule=chunk(size=32)", source, setup);
  EXPECT_EQ(largest, 48u);
}

// KeyDiff by blocks, plainly: keep B, append a block, score against the mean of kept and block.
TEST(Run, BlockwiseKeyDiffEqualsThePlainLoop) {
  const SyntheticSource source = make_source(10, {.layers = 1, .query_heads = 1, .kv_heads = 1, .tokens = 40});
  const Array<float, 2>& k = source.data().k[0];
  std::vector<std::int64_t> alive;
  for (std::int64_t begin = 0; begin < 40; begin += 8) {
    for (std::int64_t t = begin; t < begin + 8; ++t) alive.push_back(t);
    const auto norm = [&](std::int64_t t) {
      double sum = 0;
      for (std::int64_t d = 0; d < 8; ++d) sum += static_cast<double>(k(t, d)) * k(t, d);
      return std::sqrt(sum);
    };
    std::vector<double> anchor(8, 0.0);
    for (const std::int64_t t : alive)
      for (std::int64_t d = 0; d < 8; ++d) anchor[static_cast<std::size_t>(d)] += k(t, d) / norm(t);
    std::vector<std::pair<double, std::int64_t>> ranked;
    for (const std::int64_t t : alive) {
      double dot = 0;
      for (std::int64_t d = 0; d < 8; ++d) dot += k(t, d) * anchor[static_cast<std::size_t>(d)];
      ranked.emplace_back(dot / norm(t), t);  // the least similar first
    }
    std::sort(ranked.begin(), ranked.end());
    if (ranked.size() > 10) ranked.resize(10);
    alive.clear();
    for (const auto& [score, t] : ranked) alive.push_back(t);
    std::sort(alive.begin(), alive.end());
  }
  EXPECT_EQ(run_engine("keydiff(like=paper,chunk=8)", source, {.amount = tokens(10), .chunk = 8}).kept(0, 0), alive);
}

TEST(Run, SegmentsOfNewTokensLeaveWhatWasDecided) {
  const SyntheticSource source = make_source(11, {.tokens = 60});
  const auto run = [&](const char* scope) {
    const sim::PolicyPtr policy = sim::bind_policy(std::string("score=key_norm schedule=segment(scope=") + scope + ")");
    sim::CacheState cache(source.card());
    sim::PolicyRun engine({.policy = policy, .amount = fraction(0.5)}, source, cache);
    source.feed(cache, 0, 40);
    engine.segment_end(Role::context, 40, true);
    const auto first = cache.group(0, 0).position;
    source.feed(cache, 40, 20);
    engine.segment_end(Role::question, 60, false);
    return std::pair(first, cache.group(0, 0).position);
  };
  const auto [first, both] = run("new");
  EXPECT_EQ(first.size(), 20u);
  EXPECT_EQ(both.size(), 30u);
  EXPECT_TRUE(std::includes(both.begin(), both.end(), first.begin(), first.end()));
  const auto [same, all] = run("all");
  EXPECT_EQ(same, first);
  EXPECT_EQ(all.size(), 30u);  // half of 60 tokens, chosen among all slots
}

TEST(Run, NothingFiresBeforeTheMoment) {
  const SyntheticSource source = make_source(12, {.tokens = 40});
  const sim::PolicyPtr policy = sim::bind_policy("score=key_norm schedule=segment");
  sim::CacheState cache(source.card());
  sim::PolicyRun engine({.policy = policy, .amount = fraction(0.5)}, source, cache);
  source.feed(cache, 0, 20);
  engine.segment_end(Role::context, 20, false);
  EXPECT_EQ(engine.slots_called(), 0);
  source.feed(cache, 20, 20);
  engine.segment_end(Role::question, 40, true);
  EXPECT_EQ(cache.group(0, 0).size(), 20);
}

TEST(Run, CascadeNeverExceedsTheTotalAndEndsAsOneShot) {
  // Layers decide as they finish; with scores that do not change and budgets that only fall, the end is the same.
  const SyntheticSource source = make_source(13, {.layers = 4, .tokens = 80});
  const std::string rest = " budget=pyramid(beta=4,window=4) select=topk";
  std::vector<std::int64_t> plans;
  EngineSetup setup{.amount = tokens(20)};
  setup.on_plan = [&](const sim::GroupPlan& plan) { plans.push_back(plan.layer); };
  const EngineRun cascade = run_engine("score=key_norm schedule=each_layer" + rest, source, setup);
  EXPECT_EQ(plans.size(), 2u * (1 + 2 + 3 + 4));
  EXPECT_EQ(sets_of(cascade), sets_of(run_engine("score=key_norm schedule=prefill_end" + rest, source, setup)));
  // A budget of one group decides on the layer alone.
  plans.clear();
  (void)run_engine("score=key_norm schedule=each_layer", source, setup);
  EXPECT_EQ(plans.size(), 8u);
}

TEST(Run, AWindowedLayerCountsItsReach) {
  const SyntheticSource source = make_source(14, {.tokens = 60, .window = 21});
  const EngineRun run = run_engine("knorm", source, {.amount = fraction(0.5), .compress_at = 50});
  EXPECT_EQ(run.kept(0, 0).size(), 25u);
  EXPECT_EQ(run.kept(1, 0).size(), 10u);  // of the 20 that the next query can see
  EXPECT_GE(run.kept(1, 0).front(), 30);
  const EngineRun full = run_engine("knorm", source, {.amount = fraction(1.0), .compress_at = 50, .steps = 10});
  EXPECT_EQ(full.kept(1, 0).size(), 21u);
  EXPECT_EQ(full.kept(0, 0).size(), 60u);
}

TEST(Run, BytesAreSharedByTheGroups) {
  const SyntheticSource source = make_source(15, {.tokens = 60});
  // 4 groups of 32 bytes a token.
  const EngineRun run = run_engine("knorm", source, {.amount = sim::parse_amount("1300B")});
  for (const auto& set : sets_of(run)) EXPECT_EQ(set.size(), 10u);
  EXPECT_LE(run.cache.ledger().stored_bytes(), 1300);
  const EngineRun split = run_engine("snapkv(like=official,window=4)", source, {.amount = sim::parse_amount("1300B")});
  EXPECT_LE(split.cache.ledger().stored_bytes(), 1300);
}

TEST(Run, NanScoresSortLastAndAreCounted) {
  std::mt19937_64 rng(16);
  SyntheticData data = random_data(rng, {.tokens = 30});
  for (const std::int64_t t : {3, 4, 5}) data.k[0](t, 0) = std::numeric_limits<float>::quiet_NaN();
  const SyntheticSource source(data);
  const EngineRun run = run_engine("knorm", source, {.amount = tokens(27)});
  EXPECT_EQ(run.nan_scores, 3);
  for (const std::int64_t position : run.kept(0, 0)) EXPECT_TRUE(position < 3 || position > 5);
  EXPECT_EQ(run_engine("knorm", source, {.amount = tokens(29)}).kept(0, 0).size(), 29u);
}

TEST(Run, MissingSignalsAreNamed) {
  SyntheticSource source = make_source(17);
  source.missing.insert(sim::Signal::column_sums);
  try {
    (void)run_engine("h2o", source, {.amount = fraction(0.5)});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.category(), Category::usage);
    EXPECT_THAT(error.what(), testing::HasSubstr("column_sums"));
    EXPECT_THAT(error.what(), testing::HasSubstr("h2o"));
  }
  const sim::PolicyPtr policy = sim::bind_policy("snapkv(like=official)");
  sim::CacheState shared(source.card());
  EXPECT_THROW((sim::PolicyRun({.policy = policy, .amount = fraction(0.5)}, source, shared)), Error);
}

TEST(Run, TopAttentionReadsTheBestOfEveryQuery) {
  const SyntheticSource source = make_source(18, {.tokens = 50});
  const sim::PolicyPtr policy = sim::bind_policy("oracle_step");
  sim::CacheState cache(source.card());
  sim::PolicyRun run({.policy = policy, .amount = tokens(10)}, source, cache);
  source.feed(cache, 0, 40);
  EXPECT_TRUE(run.read(0, 0, source.query_block(0, 0, 40)).all);
  run.segment_end(Role::context, 40, true);
  EXPECT_EQ(cache.group(0, 0).size(), 40);
  source.feed(cache, 40, 10);
  const sim::ReadPlan plan = run.read(0, 40, source.query_block(0, 40, 10));
  ASSERT_FALSE(plan.all);
  for (std::int64_t group = 0; group < 2; ++group)
    for (std::int64_t i = 0; i < 10; ++i) {
      const auto& chosen = plan.slots[static_cast<std::size_t>(group)][static_cast<std::size_t>(i)];
      ASSERT_EQ(chosen.size(), static_cast<std::size_t>(10 + i + 1));
      const auto mass = [&](std::int64_t j) {
        return source.probabilities(0, 2 * group)(40 + i, j) + source.probabilities(0, 2 * group + 1)(40 + i, j);
      };
      float least = 3;
      for (const std::int32_t slot : chosen) least = std::min(least, mass(slot));
      for (std::int64_t j = 0; j <= 40 + i; ++j)
        if (std::find(chosen.begin(), chosen.end(), j) == chosen.end()) {
          EXPECT_LE(mass(j), least + 1e-6f);
        }
    }
  // The step touches the chosen share of this layer and all of the other.
  EXPECT_EQ(cache.ledger().touched_bytes, 2 * 20 * 32 + 2 * 50 * 32);
}

// Recall over all future queries with the same number of kept tokens a group: no one-shot set beats the oracle's.
TEST(Run, TheOracleBoundsOneShotRecall) {
  const SyntheticSource source = make_source(19, {.tokens = 90});
  const auto recall = [&](const EngineRun& run, std::int64_t layer, std::int64_t group) {
    double sum = 0;
    for (std::int64_t h = 2 * group; h < 2 * group + 2; ++h)
      for (std::int64_t i = 60; i < 90; ++i)
        for (const std::int64_t j : run.kept(layer, group))
          if (j < 60) sum += static_cast<double>(source.probabilities(layer, h)(i, j));
    return sum;
  };
  for (const std::int64_t budget : {3, 12, 40}) {
    const EngineSetup setup{.amount = tokens(budget), .compress_at = 60};
    const EngineRun oracle = run_engine("oracle", source, setup);
    for (const std::string& preset : all_presets()) {
      const sim::PolicyPtr policy = sim::bind_policy(preset);
      if (!sim::one_shot(*policy) || sim::count_class(*policy) != sim::CountClass::exact ||
          policy->schedule.name() == "never" || sim::cache_granularity(*policy) == sim::Granularity::query_head)
        continue;
      const EngineRun run = run_engine(preset, source, setup);
      for (std::int64_t layer = 0; layer < 2; ++layer)
        for (std::int64_t group = 0; group < 2; ++group)
          EXPECT_LE(recall(run, layer, group), recall(oracle, layer, group) + 1e-4) << preset;
    }
  }
}

TEST(Run, DemotionCodesInsteadOfDropping) {
  const SyntheticSource source = make_source(20, {.tokens = 64});
  const EngineRun run = run_engine("h2o(variant=prefill)", source, {.amount = fraction(0.25)});
  const std::string line = "score=column_sum select=heavy_recent act=code(bits=2,group=8,of=rest)";
  const EngineRun coded = run_engine(line, source, {.amount = fraction(0.25)});
  EXPECT_EQ(coded.cache.group(0, 0).size(), 64);
  const auto states = coded.cache.token_states(0, 0, sim::Part::key);
  std::vector<std::int64_t> exact;
  for (std::size_t t = 0; t < states.size(); ++t)
    if (states[t] == 1) exact.push_back(static_cast<std::int64_t>(t));
  EXPECT_EQ(exact, run.kept(0, 0));
  const sim::Ledger ledger = coded.cache.ledger();
  EXPECT_EQ(ledger.k.tokens[3][0], 4 * 48);
  EXPECT_EQ(ledger.k.stored_bytes, 4 * (16 * 16 + 48 * (2 + 4)));
}

TEST(Run, ClassesByRank) {
  const SyntheticSource source = make_source(21, {.tokens = 100});
  const EngineRun run = run_engine(
      "score=key_norm select=all act=classes([exact(share=0.2),code(bits=4,share=0.3,group=8),code(bits=2,group=8)])",
      source, {.amount = fraction(0.5)});
  const sim::Ledger ledger = run.cache.ledger();
  EXPECT_EQ(ledger.k.tokens[1][0], 4 * 20);
  EXPECT_EQ(ledger.k.tokens[3][0], 4 * 80);
  EXPECT_EQ(ledger.k.stored_bytes, 4 * (20 * 16 + 30 * (4 + 4) + 50 * (2 + 4)));
  const EngineRun best = run_engine("knorm", source, {.amount = fraction(0.2)});
  const auto states = run.cache.token_states(1, 1, sim::Part::value);
  for (const std::int64_t position : best.kept(1, 1)) EXPECT_EQ(states[static_cast<std::size_t>(position)], 1);
  // What no class takes is dropped.
  const EngineRun some = run_engine("score=key_norm select=topk act=classes([exact(share=0.5),code(share=0.25)])",
                                    source, {.amount = fraction(0.4)});
  EXPECT_EQ(some.kept(0, 0).size(), 30u);
}

TEST(Run, CodedStaysCodedOverSteps) {
  const SyntheticSource source = make_source(22, {.tokens = 60});
  const EngineRun run = run_engine("score=position act=code(bits=4,group=8,of=rest) schedule=step", source,
                                   {.amount = tokens(10), .compress_at = 40, .steps = 20});
  const auto states = run.cache.token_states(0, 0, sim::Part::key);
  EXPECT_EQ(std::count(states.begin(), states.end(), 3), 50);
  EXPECT_EQ(run.cache.ledger().k.tokens[3][0], 4 * 50);
}

// An act that looks at a layer as a whole first, as a codec fitted over heads does.
void act_with_layer(const sim::ActContext& context, sim::GroupPlan& plan) {
  // Keeps as many slots as its layer has groups, so that what `prepare` saw shows.
  const auto groups = static_cast<std::size_t>(*static_cast<const int*>(context.layer_state.get()));
  std::fill(plan.keep.begin() + static_cast<std::ptrdiff_t>(groups), plan.keep.end(), std::uint8_t{0});
}
std::shared_ptr<const void> count_groups(std::span<const sim::ActContext> contexts) {
  for (const auto& context : contexts) EXPECT_EQ(context.layer, contexts[0].layer);
  return std::make_shared<const int>(static_cast<int>(contexts.size()));
}

TEST(Run, AnActMaySeeTheWholeLayerFirst) {
  const SyntheticSource source = make_source(24, {.query_heads = 6, .kv_heads = 3, .tokens = 30});
  const sim::ActRow row{.name = "layerwise",
                        .source = "",
                        .help = "",
                        .params = {},
                        .needs = {},
                        .act = act_with_layer,
                        .prepare = count_groups};
  sim::BoundPolicy policy = sim::bind_line("score=position select=all");
  policy.act = {.row = &row, .params = {}};
  sim::CacheState cache(source.card());
  sim::PolicyRun run({.policy = std::make_shared<const sim::BoundPolicy>(policy), .amount = fraction(0.5)}, source,
                     cache);
  source.feed(cache, 0, 30);
  run.segment_end(Role::context, 30, true);
  for (std::int64_t group = 0; group < 3; ++group) EXPECT_EQ(cache.group(1, group).size(), 3);
}

}  // namespace
}  // namespace kvgrind::tests
