// Free composition: random lines of all primitives, nested and with random parameters, run or are refused by name; and
// whatever runs keeps to its budget, its ledger, and one result for any number of threads and order of sequences.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <map>
#include <set>

#include "core/error.h"
#include "core/parallel.h"
#include "sim/engine/base_amount.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "tests/support/for_all.h"
#include "tests/support/random_line.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::tests {
namespace {

using sim::Amount;
using sim::CountClass;

// A random text: sentences, two images and a needle, hidden norms, now and then a windowed last layer.
SyntheticSource random_source(std::mt19937_64& rng) {
  const std::int64_t heads[3][2] = {{4, 2}, {3, 1}, {2, 2}};
  const auto& shape_heads = heads[rng() % 3];
  const SyntheticShape shape{.layers = 1 + static_cast<std::int64_t>(rng() % 3),
                             .query_heads = shape_heads[0],
                             .kv_heads = shape_heads[1],
                             .tokens = 24 + static_cast<std::int64_t>(rng() % 30),
                             .window = rng() % 3 ? 0 : 12};
  SyntheticData data = random_data(rng, shape);
  std::uniform_real_distribution<float> norm(0.5f, 2.0f);
  for (std::int64_t l = 0; l < shape.layers; ++l) {
    auto& row = data.hidden_norm.emplace_back();
    for (std::int64_t t = 0; t < shape.tokens; ++t) row.push_back(norm(rng));
  }
  data.spans = {{"image", 2, 6, ""}, {"needle", 7, 9, ""}, {"image", 9, 14, ""}};
  for (std::int64_t t = 0; t < shape.tokens; t += 5)
    data.spans.push_back({"sentence", t, std::min(t + 5, shape.tokens), ""});
  data.segments = {{Role::context, 0, shape.tokens - 9}, {Role::question, shape.tokens - 9, shape.tokens}};
  return SyntheticSource(std::move(data));
}

Amount random_amount(std::mt19937_64& rng, const SyntheticSource& source) {
  const double share = 0.01 + 0.99 * static_cast<double>(rng() % 101) / 100;
  const ModelCard& card = source.card();
  switch (rng() % 4) {
    case 0:
      return {Amount::Kind::fraction, share};
    case 1:
      return {Amount::Kind::tokens, static_cast<double>(1 + rng() % 60)};
    case 2:
      return {Amount::Kind::removed, 1 - share};
    default:
      return {Amount::Kind::bytes, std::ceil(share * static_cast<double>(card.kv_bytes_per_token_group() * card.layers *
                                                                         card.query_heads * source.tokens()))};
  }
}

// Everything of a run that must not depend on threads or on what ran before.
struct Result {
  std::vector<std::vector<std::int64_t>> position, rotary;
  std::vector<std::vector<float>> k, v, count;
  std::vector<std::vector<std::uint8_t>> states;
  std::vector<std::int64_t> requested, effective;
  std::int64_t stored = 0, ideal = 0, nan_scores = 0;
  bool operator==(const Result&) const = default;
};

// NaN-proof: keys that a merge made infinite would differ from themselves.
std::vector<float> bits_of(std::vector<float> values) {
  for (float& v : values)
    if (std::isnan(v)) v = 12345.0f;
  return values;
}

Result result_of(const EngineRun& run) {
  Result out;
  for (std::int64_t layer = 0; layer < run.cache.layers(); ++layer)
    for (std::int64_t group = 0; group < run.cache.heads(); ++group) {
      const sim::GroupSlots& slots = run.cache.group(layer, group);
      out.position.push_back(slots.position);
      out.rotary.push_back(slots.rotary);
      out.k.push_back(bits_of(slots.k));
      out.v.push_back(bits_of(slots.v));
      out.count.push_back(slots.count);
      out.states.push_back(run.cache.token_states(layer, group, sim::Part::key));
      out.states.push_back(run.cache.token_states(layer, group, sim::Part::value));
    }
  out.requested = run.requested;
  out.effective = run.effective;
  out.stored = run.cache.ledger().stored_bytes();
  out.ideal = run.cache.ledger().ideal_bytes();
  out.nan_scores = run.nan_scores;
  return out;
}

// Whether what is not selected leaves the cache, and what is takes the bytes of exact slots at most.
bool drops_the_rest(const sim::BoundCall& act) {
  static const std::set<std::string> plain = {"drop", "exact", "merge", "merge_next", "merge_values"};
  if (plain.contains(act.name())) return true;
  if (act.name() != "classes") return false;
  const auto& parts = act.params.calls("of");
  return std::all_of(parts.begin(), parts.end(), drops_the_rest);
}

// More slots than the amount can give all groups together at the end, later tokens of one-shot schedules included.
std::int64_t most_slots(const sim::BoundPolicy& policy, const EngineSetup& setup, const EngineRun& run) {
  const std::int64_t later = policy.schedule.name() == "step" ? 0 : setup.steps;
  std::int64_t sum = 0;
  for (std::int64_t layer = 0; layer < run.cache.layers(); ++layer) {
    const std::int64_t reach = run.cache.reach(layer);
    const std::int64_t base = sim::base_amount(setup.amount, reach, run.cache.card(), run.cache.heads()).tokens;
    const bool windowed = run.cache.card().layer[static_cast<std::size_t>(layer)].window > 0;  // the newest expires one
    sum += run.cache.heads() * std::min(reach + (windowed ? 1 : 0), base + later);
  }
  return sum;
}

void check_one(const std::string& line, const EngineSetup& setup, const EngineRun& run, std::int64_t tokens) {
  const sim::PolicyPtr policy = sim::bind_policy(line);
  const sim::Ledger ledger = run.cache.ledger();
  ledger.check();
  EXPECT_EQ(ledger.token_groups, tokens * run.cache.layers() * run.cache.heads());
  EXPECT_LE(ledger.ideal_bytes(), ledger.stored_bytes());
  std::int64_t slots = 0;
  for (std::int64_t layer = 0; layer < run.cache.layers(); ++layer)
    for (std::int64_t group = 0; group < run.cache.heads(); ++group) {
      const auto set = run.kept(layer, group);
      slots += static_cast<std::int64_t>(set.size());
      EXPECT_EQ(std::adjacent_find(set.begin(), set.end(), std::greater_equal<>()), set.end()) << "sorted, unique";
      EXPECT_TRUE(set.empty() || (set.front() >= 0 && set.back() < tokens));
    }
  if (policy->schedule.name() == "never") return;
  if (policy->select_row().count <= CountClass::at_most) {
    for (std::size_t i = 0; i < run.effective.size(); ++i) EXPECT_LE(run.effective[i], run.requested[i]);
  }
  const bool stored = policy->budget.name() != "uniform" || policy->budget.params.word("of") == "stored";
  if (stored && sim::count_class(*policy) <= CountClass::at_most && drops_the_rest(policy->act)) {
    const std::int64_t most = most_slots(*policy, setup, run);
    EXPECT_LE(slots, most);
    EXPECT_LE(ledger.stored_bytes(), most * run.cache.card().kv_bytes_per_token_group());
    if (setup.amount.kind == Amount::Kind::bytes && setup.steps == 0) {
      const auto groups = static_cast<double>(run.cache.layers() * run.cache.heads());
      const auto least = groups * static_cast<double>(run.cache.card().kv_bytes_per_token_group());
      EXPECT_LE(static_cast<double>(ledger.stored_bytes()), std::max(setup.amount.value, least));  // one token each
    }
  }
}

// The sequences of one line in this order on so many threads.
std::map<std::int64_t, Result> results(const std::string& line, const EngineSetup& setup,
                                       const std::vector<const SyntheticSource*>& sources, bool reversed, int threads) {
  set_thread_count(threads);
  std::map<std::int64_t, Result> out;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::size_t at = reversed ? sources.size() - 1 - i : i;
    EngineSetup own = setup;
    own.sequence = static_cast<std::int64_t>(at);
    own.compress_at = sources[at]->tokens() - setup.steps;
    const EngineRun run = run_engine(line, *sources[at], own);
    if (!reversed) check_one(line, own, run, sources[at]->tokens());
    out.emplace(own.sequence, result_of(run));
  }
  return out;
}

std::vector<std::string> words_of(const std::string& line) {
  const char* const ends = "=,()[] ";
  std::vector<std::string> out;
  for (std::size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = line.find_first_of(ends, begin);
    out.push_back(line.substr(begin, end - begin));
  }
  return out;
}

// What a refusal may say: a column, a place or a part that the line does not have.
bool by_name(const std::string& text) {
  for (const char* part : {"gives the column", "outermost", "no signal", "reading signal", "leave other slots alone",
                           "one a layer", "one for each of", "hold different tokens"})
    if (text.find(part) != std::string::npos) return true;
  return false;
}

TEST(Compositions, RandomLinesRunOrAreRefusedByName) {
  const int threads = thread_count();
  int ran = 0, refused = 0;
  std::set<std::string> seen;
  for_all(23, 900, [&](std::mt19937_64& rng) {
    const std::string line = random_line(rng);
    SCOPED_TRACE(line);
    const SyntheticSource first = random_source(rng), second = random_source(rng);
    EngineSetup setup{.amount = random_amount(rng, first),
                      .steps = rng() % 3 ? static_cast<std::int64_t>(1 + rng() % 8) : 0,
                      .chunk = rng() % 2 ? static_cast<std::int64_t>(1 + rng() % 12) : 0,
                      .seed = rng() % 3};
    SCOPED_TRACE(setup.amount.text());
    try {
      const auto forward = results(line, setup, {&first, &second}, false, 1);
      EXPECT_TRUE(forward == results(line, setup, {&first, &second}, true, 2)) << "threads and order";
      ++ran;
      for (const std::string& word : words_of(line)) seen.insert(word);
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::usage);
      EXPECT_TRUE(by_name(error.what())) << error.what();
      ++refused;
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  });
  set_thread_count(threads);
  std::cout << ran << " compositions ran, " << refused << " were refused by name, KVGRIND_TEST_SEED=" << base_seed(23)
            << "\n";
  EXPECT_GE(ran, 500);
  // Every primitive ran in some line.
  const auto missing = [&](const auto& rows) {
    std::vector<std::string> out;
    for (const auto* row : rows)
      if (!seen.contains(row->name)) out.emplace_back(row->name);
    return out;
  };
  using testing::IsEmpty;
  EXPECT_THAT(missing(sim::score_rows()), IsEmpty());
  EXPECT_THAT(missing(sim::budget_rows()), IsEmpty());
  EXPECT_THAT(missing(sim::select_rows()), IsEmpty());
  EXPECT_THAT(missing(sim::act_rows()), IsEmpty());
  EXPECT_THAT(missing(sim::schedule_rows()), IsEmpty());
  EXPECT_THAT(missing(sim::read_rows()), IsEmpty());
}

// The same of every preset in every variant; none is left out.
TEST(Compositions, EveryPresetKeepsToBudgetAndLedger) {
  const int threads = thread_count();
  std::mt19937_64 rng(base_seed(29));
  for (const sim::MethodCard& card : sim::method_cards())
    for (const auto& like : sim::read_method(card).like) {
      const std::string preset = card.name + "(like=" + like.name + ")";
      SCOPED_TRACE(preset);
      const SyntheticSource first = random_source(rng), second = random_source(rng);
      for (const std::int64_t steps : {0, 6}) {
        const EngineSetup setup{.amount = random_amount(rng, first), .steps = steps, .chunk = steps};
        SCOPED_TRACE(setup.amount.text());
        const auto forward = results(preset, setup, {&first, &second}, false, 1);
        EXPECT_TRUE(forward == results(preset, setup, {&first, &second}, true, 2)) << "threads and order";
      }
    }
  set_thread_count(threads);
}

}  // namespace
}  // namespace kvgrind::tests
