// Passes over a context once more: what they measure, and that recordings and the closed loop agree on it.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "kernels/norm/norm.h"
#include "replay/closed_loop/probe_store.h"
#include "replay/open_loop/open_source.h"
#include "replay/probe/probe_tap.h"
#include "replay/record/record.h"
#include "tests/replay/closed_support.h"

namespace kvgrind::replay {
namespace {

using tests::tiny;

constexpr std::int64_t context_tokens = 100;

std::vector<std::int32_t> context_ids() { return tests::small_prompt(context_tokens).context; }

ProbePlan small_plan() {
  return {.repeat = true,
          .reread = true,
          .episode = true,
          .chunk = 40,
          .sinks = 4,
          .tail = 8,
          .text = {.first = {5, 6, 7}, .next = {8, 9}, .suffix = {10}},
          .episodes = {.episodes = 2, .medoids = 2, .window = 16, .embed = {}}};
}

// Shows a pass to the tap under test and to a plain loop.
class Watch final : public Tap {
 public:
  Watch(const ModelCard& card, const ProbePass& pass, const sim::KvCache& cache)
      : tap(card, pass, cache),
        card_(card),
        pass_(pass),
        cache_(cache),
        expected_(static_cast<std::size_t>(card.layers * card.query_heads)) {
    for (ProbeColumns& one : expected_)
      for (auto& column : one.columns) column.assign(static_cast<std::size_t>(pass.end - pass.begin), 0.0f);
  }
  void begin(const TapPass& fed) override {
    first_ = fed.first;
    tap.begin(fed);
  }
  void layer(const TapLayer& shown) override {
    tap.layer(shown);
    const std::int64_t n = shown.q.extent(0);
    std::vector<float> norm(static_cast<std::size_t>(n));
    kernels::l2_norms_ref(shown.attn_in, norm);
    for (std::int64_t h = 0; h < card_.query_heads; ++h) {
      const sim::GroupView group = cache_.read(shown.layer, h / card_.group());
      ProbeColumns& to = expected_[static_cast<std::size_t>(shown.layer * card_.query_heads + h)];
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t position = first_ + i;
        std::vector<double> e(static_cast<std::size_t>(position + 1));
        double all = 0, part = 0;
        for (std::int64_t j = 0; j <= position; ++j) {
          double logit = 0;
          for (std::int64_t d = 0; d < card_.head_dim; ++d)
            logit += static_cast<double>(shown.q(i, h, d)) * static_cast<double>(group.k(j, d));
          e[static_cast<std::size_t>(j)] = std::exp(logit * static_cast<double>(card_.scale));
          all += e[static_cast<std::size_t>(j)];
          const bool own = pass_.kind != ProbeKind::episode && j >= pass_.first;
          if (j < pass_.sinks || (j >= pass_.begin && j < pass_.end) || own) part += e[static_cast<std::size_t>(j)];
        }
        for (std::int64_t j = pass_.begin; j < pass_.end; ++j) {
          const double p = e[static_cast<std::size_t>(j)],
                       length = static_cast<double>(norm[static_cast<std::size_t>(i)]);
          const auto raise = [&](ProbeStatistic statistic, double x) {
            float& at = to.of(statistic)[static_cast<std::size_t>(j - pass_.begin)];
            at = std::max(at, static_cast<float>(x));
          };
          raise(ProbeStatistic::part_max, p / part);
          raise(ProbeStatistic::part_max_norm, p / part / length);
          if (position < pass_.first + pass_.lead) continue;
          raise(ProbeStatistic::row_max, p / all);
          raise(ProbeStatistic::row_max_norm, p / all / length);
          to.of(ProbeStatistic::row_mean)[static_cast<std::size_t>(j - pass_.begin)] +=
              static_cast<float>(p / all / static_cast<double>(pass_.fed - pass_.lead));
        }
      }
    }
  }
  const ProbeColumns& expected(std::int64_t layer, std::int64_t head) const {
    return expected_[static_cast<std::size_t>(layer * card_.query_heads + head)];
  }
  ProbeTap tap;

 private:
  const ModelCard& card_;
  const ProbePass& pass_;
  const sim::KvCache& cache_;
  std::vector<ProbeColumns> expected_;
  std::int64_t first_ = 0;
};

TEST(Probe, MeasuresWhatAPlainLoopDoes) {
  const auto ids = context_ids();
  const ModelCard& card = sim::model_config(*tiny()).card;
  ProbePlan plan = small_plan();
  plan.episodes.embed = mean_embedding(sim::token_embedding(*tiny()));
  const std::vector<ProbePass> passes = plan_probes({ids, 0, {}}, plan);
  ASSERT_EQ(passes.size(), 6u);  // 40 + 40 + 20 tokens, once all, two episodes
  for (const ProbePass& pass : passes) {
    sim::CacheState cache(card);
    (void)sim::prefill(*tiny(), {.sequence = 0, .first = 0, .ids = ids, .cache = &cache}, 512);
    Watch watch(card, pass, cache);
    run_probe(pass, cache, watch, 64, [&](const sim::Feed& feed) { (void)sim::forward(*tiny(), {&feed, 1}); });
    for (std::int64_t l = 0; l < card.layers; ++l)
      for (std::int64_t h = 0; h < card.query_heads; ++h) {
        const ProbeColumns found = watch.tap.columns(l, h), &wanted = watch.expected(l, h);
        EXPECT_EQ(found.begin, pass.begin);
        EXPECT_EQ(found.end, pass.end);
        for (int s = 0; s < probe_statistics; ++s) {
          const auto& column = found.columns[static_cast<std::size_t>(s)];
          const bool measured = (measured_statistics(pass.kind) >> s & 1u) != 0;
          ASSERT_EQ(column.size(), measured ? static_cast<std::size_t>(pass.end - pass.begin) : 0u);
          float largest = 0;
          for (std::size_t j = 0; j < column.size(); ++j) {
            EXPECT_NEAR(column[j], wanted.columns[static_cast<std::size_t>(s)][j],
                        1e-6 + 1e-4 * static_cast<double>(column[j]))
                << probe_kind_name(pass.kind) << pass.number << " "
                << probe_statistic_names[static_cast<std::size_t>(s)];
            largest = std::max(largest, column[j]);
          }
          if (measured) {
            EXPECT_GT(largest, 1e-5f);
          }
        }
      }
  }
}

TEST(Probe, PlansAsPublished) {
  const std::vector<std::int32_t> ids = {100, 101, 102, 103, 104, 105, 106};
  ProbePlan plan = small_plan();
  plan.episode = false;
  plan.chunk = 3;
  plan.tail = 2;
  const auto passes = plan_probes({ids, 1, {}}, plan);  // one token of the system's
  ASSERT_EQ(passes.size(), 3u);
  EXPECT_EQ(passes[0].ids, (std::vector<std::int32_t>{5, 6, 7, 10, 101, 102, 103}));
  EXPECT_EQ(passes[0].begin, 1);
  EXPECT_EQ(passes[0].end, 4);
  EXPECT_EQ(passes[0].lead, 4);
  EXPECT_EQ(passes[0].sinks, 4);
  EXPECT_EQ(passes[1].ids, (std::vector<std::int32_t>{8, 9, 102, 103, 10, 104, 105, 106}));
  EXPECT_EQ(passes[1].lead, 5);
  EXPECT_EQ(passes[2].ids, ids);
  EXPECT_EQ(passes[2].fed, 7);
  EXPECT_TRUE(parse_probes("repeat=512,reread").reread);
  EXPECT_EQ(parse_probes("repeat=512,reread").chunk, 512);
  for (const char* wrong : {"repeats", "repeat=0", "repeat=x", "reread=3", "episode=-1"})
    EXPECT_THROW((void)parse_probes(wrong), Error) << wrong;
}

TEST(Probe, EpisodesAreNearestWindowsInOrder) {
  const std::vector<std::vector<float>> windows = {{1, 0}, {0, 1}, {.9f, .1f}, {.1f, .9f}, {1, .02f}, {.5f, .5f}};
  const auto found = episodes_of(windows, 2, 2);
  ASSERT_EQ(found.size(), 2u);
  for (const auto& episode : found) {
    EXPECT_EQ(episode.size(), 2u);
    EXPECT_LT(episode[0], episode[1]);
  }
  EXPECT_EQ(episodes_of(windows, 9, 1).size(), 6u);
  EXPECT_EQ(episodes_of(windows, 1, 9)[0], (std::vector<std::size_t>{0, 1, 2, 3, 4, 5}));
}

class RecordedProbes : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char pattern[] = "/tmp/kvgrind-probes-XXXXXX";
    folder_ = mkdtemp(pattern);
    (void)record(job("run.kvt"), nullptr, {});
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  static RecordJob job(const std::string& name) {
    TokenSequence context, fork;
    context.ids = context_ids();
    context.segments = {{Role::context, 0, context_tokens}};
    fork.ids = {20, 21, 22};
    fork.parent = 0;
    fork.fork_at = context_tokens;
    fork.segments = {{Role::question, context_tokens, context_tokens + 3}};
    RecordJob out;
    out.model = &tests::tiny_folder();
    out.sequences = {context, fork};
    out.out = folder_ / name;
    out.device = "cpu";
    out.probes = small_plan();
    return out;
  }
  static std::shared_ptr<const traces::Trace> open(const std::filesystem::path& path) {
    return traces::Trace::open(path, {.probe = false, .verify_checksums = true});
  }
  static void expect_same(const std::vector<ProbeColumns>& a, const std::vector<ProbeColumns>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].number, b[i].number);
      EXPECT_EQ(a[i].begin, b[i].begin);
      EXPECT_EQ(a[i].columns, b[i].columns);
    }
  }
  static inline std::filesystem::path folder_;
};

TEST_F(RecordedProbes, AreThoseOfTheClosedLoop) {
  const auto trace = open(folder_ / "run.kvt");
  const auto ids = context_ids();
  sim::CacheState cache(trace->card());
  (void)sim::prefill(*tiny(), {.sequence = 0, .first = 0, .ids = ids, .cache = &cache}, 512);
  ProbeStore store;
  const OpenSource root(recorded_run(trace), 0), fork(recorded_run(trace), 1);
  for (const sim::Signal signal : {sim::Signal::repeat_probe, sim::Signal::reread_probe, sim::Signal::episode_probe}) {
    run_probes({*tiny(), {}, cache, 512}, {ids, 0, {}}, small_plan(), *probe_kind(signal), store);
    EXPECT_TRUE(fork.has(signal));
    for (std::int64_t l = 0; l < trace->card().layers; ++l)
      for (std::int64_t h = 0; h < trace->card().query_heads; ++h) {
        const auto& live =
            store.columns.at(*probe_kind(signal))[static_cast<std::size_t>(l * trace->card().query_heads + h)];
        expect_same(root.probes(l, h, signal), live);
        expect_same(fork.probes(l, h, signal), live);  // a fork's context is its parent's
      }
  }
  std::int64_t fed = 0, rows = 0;
  for (const ProbePass& pass : trace->probe_passes(0)) {
    fed += pass.fed;
    rows += (pass.end - pass.begin) * (pass.kind == ProbeKind::repeat ? 5 : pass.kind == ProbeKind::reread ? 2 : 1);
  }
  EXPECT_EQ(trace->probe_passes(0).size(), 6u);
  EXPECT_EQ(trace->probe_bytes(), rows * trace->card().layers * trace->card().query_heads * 4);
  EXPECT_EQ(trace->provenance().at("probe_tokens"), fed);
  EXPECT_TRUE(traces::check_trace(folder_ / "run.kvt", true).ok);
}

TEST_F(RecordedProbes, ChangeTheIdentityButNoTokens) {
  RecordJob without = job("without.kvt");
  without.probes = {};
  (void)record(without, nullptr, {});
  const auto a = open(folder_ / "run.kvt"), b = open(folder_ / "without.kvt");
  EXPECT_NE(a->hash(), b->hash());
  EXPECT_EQ(a->rows(), b->rows());
  EXPECT_EQ(a->nll(1).size(), b->nll(1).size());
  EXPECT_TRUE(b->probe_passes(0).empty());
  const OpenSource source(recorded_run(b), 0);
  EXPECT_FALSE(source.has(sim::Signal::repeat_probe));
  try {
    (void)source.probes(0, 0, sim::Signal::repeat_probe);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--probes repeat"), std::string::npos) << error.what();
  }
}

TEST_F(RecordedProbes, SurviveAnInterruptionAndARepair) {
  struct Stop final : Progress {
    CancelToken token;
    void update(std::string_view, std::int64_t done, std::int64_t) override {
      if (done > context_tokens + 44 + 50) token.cancel();  // within the second pass of the first sequence
    }
  } stop;
  RecordJob cut = job("cut.kvt");
  cut.chunk = 64;
  EXPECT_THROW((void)record(cut, &stop, stop.token), Error);
  const std::filesystem::path part = folder_ / "cut.kvt.part";
  const auto whole = open(folder_ / "run.kvt"), half = open(part);
  ASSERT_GE(half->probe_passes(0).size(), 1u);
  ASSERT_LT(half->probe_passes(0).size(), 6u);
  const auto is_there = [&](const traces::Trace& trace) {
    const auto all = whole->probes(0, 1, 2, ProbeKind::repeat), some = trace.probes(0, 1, 2, ProbeKind::repeat);
    ASSERT_FALSE(some.empty());
    expect_same(some, {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(some.size())});
  };
  is_there(*half);
  (void)traces::repair_trace(part, folder_ / "mended.kvt", true);
  is_there(*open(folder_ / "mended.kvt"));
  EXPECT_EQ(open(folder_ / "mended.kvt")->probe_passes(0).size(), half->probe_passes(0).size());
}

TEST_F(RecordedProbes, RefusedBeyondTheModelsPositions) {
  RecordJob too_long = job("long.kvt");
  too_long.sequences.resize(1);
  too_long.sequences[0].ids.assign(3000, 7);
  too_long.sequences[0].segments = {{Role::context, 0, 3000}};
  EXPECT_THROW((void)record(too_long, nullptr, {}), Error);
}

TEST(ClosedProbes, PresetsRunAndSayWhatItCost) {
  const SuitePrompt prompt = tests::small_prompt(120);
  ClosedOptions options;
  options.probes.text = {.first = {5, 6}, .next = {7}, .suffix = {8}};
  options.probes.chunk = 50;
  const ClosedPrompt closed(tiny(), prompt, 0, options);
  const auto run = [&](const char* policy) {
    return closed.run({sim::bind_policy(policy), sim::parse_amount("0.5"), 0});
  };
  const JobOutcome repeat = run("kvzip"), again = run("kvzip"), reread = run("kvcompose"), plain = run("knorm");
  EXPECT_EQ(repeat.probe_tokens, 120 + 3 + 2 * (1 + 8 + 1));
  EXPECT_EQ(reread.probe_tokens, 120);
  EXPECT_EQ(plain.probe_tokens, 0);
  EXPECT_EQ(tests::losses(repeat), tests::losses(again));
  EXPECT_NE(tests::losses(repeat), tests::losses(plain));
  EXPECT_NEAR(repeat.kept_mean, 60, 1e-9);
}

}  // namespace
}  // namespace kvgrind::replay
