// The open loop against plain loops, and what must hold for every policy.
#include "replay/open_loop/open_loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "sim/engine/bound_policy.h"
#include "sim/engine/methods.h"
#include "sim/engine/policy.h"
#include "tests/replay/synthetic_run.h"
#include "tests/replay/turned_off.h"
#include "tests/support/for_all.h"
#include "tests/support/synthetic_source.h"

namespace kvgrind::replay {
namespace {

using tests::synthetic_run;
using tests::SyntheticOptions;
using tests::SyntheticRun;

OpenJob job_of(const std::string& policy, const std::string& amount, Protocol protocol = Protocol::blind,
               std::uint64_t seed = 0) {
  // Random tensors for what would be fitted, of the shapes that this recording's model asks for.
  const auto random = [](const std::string& method, const std::string&) {
    return tests::synthetic_calibration(method, synthetic_run()->card());
  };
  return {.policy = sim::with_calibrations(sim::bind_policy(policy), random),
          .amount = sim::parse_amount(amount),
          .protocol = protocol,
          .seed = seed};
}

double value(const OpenOutcome& outcome, const std::string& metric) {
  const auto it = outcome.metrics.find(metric);
  EXPECT_NE(it, outcome.metrics.end()) << metric;
  return it == outcome.metrics.end() ? std::nan("") : it->second.value;
}

// Every preset: the recording carries what any of them needs, and what would be fitted is drawn.
std::vector<std::string> runnable_presets(const SequenceData& data) {
  for (const std::string& name : sim::preset_names())
    for (const sim::Signal signal : sim::needed_signals(*sim::bind_policy(name)))
      EXPECT_TRUE(data.source().has(signal)) << name << " needs " << sim::signal_name(signal);
  return sim::preset_names();
}

TEST(OpenLoop, MomentsAndQuerySets) {
  const std::vector<Segment> segments = {{Role::system, 0, 3},   {Role::context, 3, 20},   {Role::question, 20, 24},
                                         {Role::answer, 24, 27}, {Role::question, 27, 29}, {Role::answer, 29, 30}};
  EXPECT_EQ(compression_moment(segments, 30, Protocol::blind), 20);
  EXPECT_EQ(compression_moment(segments, 30, Protocol::aware), 24);
  const QuerySets sets = query_sets(segments, 30);
  EXPECT_EQ(sets.all.front(), 20);
  EXPECT_EQ(sets.all.size(), 10u);
  EXPECT_EQ(sets.question, (std::vector<std::int64_t>{20, 21, 22, 23, 27, 28}));
  EXPECT_EQ(sets.answer, (std::vector<std::int64_t>{23, 24, 25, 28}));
  EXPECT_FALSE(sets.retrospective);
  // Prose: the answer continues the context, so the last context token asks for it.
  EXPECT_EQ(query_sets({{Role::context, 0, 5}, {Role::answer, 5, 7}}, 7).answer, (std::vector<std::int64_t>{4, 5}));
  // No segments: the end of prefill, nothing after it.
  EXPECT_EQ(compression_moment({}, 100, Protocol::aware), 100);
  EXPECT_TRUE(query_sets({}, 100).retrospective);
  EXPECT_EQ(query_sets({}, 100).all.size(), 64u);
  EXPECT_EQ(compression_moment({{Role::generated, 40, 50}}, 50, Protocol::blind), 40);
  EXPECT_THROW((void)protocol_from_name("blnd"), Error);
}

// Recall, S, E by plain loops from the kept positions alone.
struct Plain {
  double recall = 0, recall_far = 0, s = 0, e = 0, top = 0, loss = 0;
};
Plain plain_figures(const SyntheticRun& run, std::int64_t sequence, const std::vector<std::vector<std::uint8_t>>& kept,
                    const std::vector<std::int64_t>& queries, std::int64_t context) {
  const ModelCard& card = run.card();
  double mass = 0, got = 0, far_mass = 0, far_got = 0, lost = 0, strong = 0, shift = 0, top = 0, tops = 0;
  std::vector<double> row_lost(queries.size()), row_strong(queries.size()), row_shift(queries.size());
  for (std::int64_t l = 0; l < card.layers; ++l) {
    std::vector<std::vector<double>> difference(
        queries.size(), std::vector<double>(static_cast<std::size_t>(card.query_heads * card.head_dim)));
    for (std::int64_t h = 0; h < card.query_heads; ++h) {
      const Array<float, 2> a = run.attention(sequence, l, h);
      const Array<float, 2> v = run.values(sequence, l, h / card.group());
      const auto& keep = kept[static_cast<std::size_t>(l * card.kv_heads + h / card.group())];
      for (std::size_t n = 0; n < queries.size(); ++n) {
        const std::int64_t i = queries[n];
        double total = 0;
        for (std::int64_t j = 0; j <= i; ++j)
          total += keep[static_cast<std::size_t>(j)] ? static_cast<double>(a(i, j)) : 0;
        std::vector<std::pair<double, std::int64_t>> order;
        for (std::int64_t j = 0; j <= i; ++j) {
          const double p = static_cast<double>(a(i, j));
          const double q = keep[static_cast<std::size_t>(j)] ? p / total : 0;
          order.emplace_back(-p, j);
          mass += p;
          got += keep[static_cast<std::size_t>(j)] ? p : 0;
          if (i - j >= 64) {
            far_mass += p;
            far_got += keep[static_cast<std::size_t>(j)] ? p : 0;
          }
          if (j >= 4 && j < context) {
            lost += p * std::max(p - q, 0.0);
            strong += p * p;
            if (i - j >= 64) row_lost[n] += p * std::max(p - q, 0.0);
            if (i - j >= 64) row_strong[n] += p * p;
          }
          for (std::int64_t d = 0; d < card.head_dim; ++d)
            difference[n][static_cast<std::size_t>(h * card.head_dim + d)] += (q - p) * static_cast<double>(v(j, d));
        }
        std::sort(order.begin(), order.end());
        for (std::size_t t = 0; t < std::min<std::size_t>(32, order.size()); ++t) {
          ++tops;
          top += keep[static_cast<std::size_t>(order[t].second)];
        }
      }
    }
    for (std::size_t n = 0; n < queries.size(); ++n) {
      double sum = 0;
      for (std::int64_t r = 0; r < card.hidden; ++r) {
        double y = 0;
        for (std::size_t c = 0; c < difference[n].size(); ++c)
          y += static_cast<double>(run.projection(l)(r, static_cast<std::int64_t>(c))) * difference[n][c];
        sum += y * y;
      }
      const double moved =
          std::sqrt(sum) / static_cast<double>(run.hidden_norm(sequence, l)[static_cast<std::size_t>(queries[n])]);
      shift += moved;
      row_shift[n] += moved / static_cast<double>(card.layers);
    }
  }
  double loss = 0, known = 0;
  for (std::size_t n = 0; n < queries.size(); ++n) {
    const double nll = static_cast<double>(run.nll(sequence)[static_cast<std::size_t>(queries[n])]);
    if (std::isnan(nll)) continue;
    const double p = std::clamp(std::exp(-nll), 1e-4, 1 - 1e-4);
    const double gone = row_strong[n] == 0 ? 0 : row_lost[n] / row_strong[n];
    const double moved = std::log(p / (1 - p)) - 10 * (2 * row_shift[n] + std::min(1.0, row_strong[n] / 2) * gone);
    loss += p - 1 / (1 + std::exp(-moved));
    ++known;
  }
  return {got / mass,    far_got / far_mass,
          lost / strong, shift / static_cast<double>(card.layers) / static_cast<double>(queries.size()),
          top / tops,    loss / known};
}

TEST(OpenLoop, FiguresEqualPlainLoops) {
  const auto run = synthetic_run();
  for (const std::int64_t sequence : {1, 5}) {
    const SequenceData data(run, sequence);
    for (const char* policy : {"knorm", "random", "snapkv(window=8)", "keydiff", "observed"})
      for (const char* amount : {"0.1", "0.5"}) {
        SCOPED_TRACE(std::string(policy) + " " + amount);
        ASSERT_TRUE(sim::one_shot(*sim::bind_policy(policy)));  // its last state is the one that was measured
        const OpenOutcome outcome = run_open(data, job_of(policy, amount), {.token_states = true});
        std::vector<std::vector<std::uint8_t>> kept;
        for (const auto& layer : outcome.k_states)
          for (const auto& head : layer) {
            kept.push_back(head);
            for (auto& state : kept.back()) state = state != 0;
          }
        for (const auto& [name, queries] : {std::pair("all", data.sets().all), std::pair("answer", data.sets().answer),
                                            std::pair("question", data.sets().question)}) {
          const Plain plain = plain_figures(*run, sequence, kept, queries, data.context_end());
          const std::string set = name;
          EXPECT_NEAR(value(outcome, "recall." + set), plain.recall, 1e-5);
          EXPECT_NEAR(value(outcome, "recall." + set + ".far"), plain.recall_far, 1e-5);
          EXPECT_NEAR(value(outcome, "S." + set), plain.s, 1e-5);
          EXPECT_NEAR(value(outcome, "E." + set), plain.e, 1e-5);
          EXPECT_NEAR(value(outcome, "D." + set), std::max(plain.s, 2 * plain.e), 2e-5);
          EXPECT_NEAR(value(outcome, "predicted_dprob." + set), plain.loss, 1e-4);
          EXPECT_NEAR(value(outcome, "top32_overlap." + set), plain.top, 1e-9);
          // Near and far together are all.
          const double f = value(outcome, "far_mass_frac." + set);
          EXPECT_NEAR(
              (1 - f) * value(outcome, "recall." + set + ".near") + f * value(outcome, "recall." + set + ".far"),
              value(outcome, "recall." + set), 1e-12);
        }
        EXPECT_GT(value(outcome, "D.answer"), 0.01);  // the recording is not degenerate
        EXPECT_LT(value(outcome, "recall.answer"), 0.999);
      }
  }
}

TEST(OpenLoop, FullBudgetIsTheIdentityForEveryPreset) {
  for (const std::int64_t window : {0, 40}) {
    const auto run = synthetic_run({.window = window, .everything = true});
    for (const std::int64_t sequence : {1, 3}) {  // with a tail, and a context alone
      const SequenceData data(run, sequence);
      ASSERT_EQ(runnable_presets(data).size(), sim::method_cards().size());
      for (const sim::MethodCard& card : sim::method_cards()) {
        for (const Protocol protocol : {Protocol::blind, Protocol::aware}) {
          SCOPED_TRACE(card.name + " " + std::string(protocol_name(protocol)) + " window " + std::to_string(window) +
                       " sequence " + std::to_string(sequence));
          const OpenOutcome outcome = run_open(data, job_of(tests::turned_off(card), "1", protocol));
          for (const auto& [name, metric] : outcome.metrics) {
            const std::string figure = name.substr(0, name.find('.'));
            if (figure == "S" || figure == "E" || figure == "D" || figure == "output_error" ||
                figure == "predicted_dprob") {
              EXPECT_EQ(metric.value, 0.0) << name;
            } else if (figure == "recall" || figure == "top32_overlap") {
              EXPECT_EQ(metric.value, 1.0) << name;
            }
          }
          if (window == 0) {
            EXPECT_EQ(outcome.stored_bytes, outcome.full_bytes);
          }
          EXPECT_GT(outcome.metrics.size(), 4u);
        }
      }
    }
  }
}

TEST(OpenLoop, TheNormalPathRunsAtFullBudget) {
  const auto run = synthetic_run();
  const SequenceData data(run, 1);
  for (const char* preset : {"knorm", "snapkv(window=8)", "tova", "observed"})
    EXPECT_GT(run_open(data, job_of(preset, "1")).slots_called, 0) << preset;
}

TEST(OpenLoop, OneBelowFullDropsOneTokenAGroup) {
  const auto run = synthetic_run({.everything = true});
  const SequenceData data(run, 1);
  for (const std::string& preset : runnable_presets(data)) {
    const auto policy = sim::bind_policy(preset);
    // Policies that only choose what to read keep everything.
    if (sim::count_class(*policy) != sim::CountClass::exact || !policy->read_row().reads_all) continue;
    const OpenOutcome outcome = run_open(data, job_of(preset, std::to_string(data.context_end() - 1) + "t"));
    SCOPED_TRACE(preset);
    EXPECT_EQ(outcome.kept_at_moment.mean, static_cast<double>(data.context_end() - 1));
    EXPECT_LT(value(outcome, "recall.all"), 1.0);
  }
}

TEST(OpenLoop, NoPolicyBeatsTheOracle) {
  const auto run = synthetic_run({.everything = true});
  const SequenceData data(run, 2);
  int checked = 0;
  for (const std::string& preset : runnable_presets(data))
    for (const char* amount : {"0.05", "0.3", "0.8"})
      for (const Protocol protocol : {Protocol::blind, Protocol::aware}) {
        SCOPED_TRACE(preset + " " + amount);
        const OpenOutcome outcome = run_open(data, job_of(preset, amount, protocol, 3), {.group_recall = true});
        ASSERT_EQ(outcome.group_recall.size(),
                  data.measured().size() * static_cast<std::size_t>(run->card().layers * outcome.state_heads));
        EXPECT_LE(oracle_excess(outcome.group_recall), 1e-9);
        // Its own figures say the same as the metric does.
        double kept = 0, mass = 0;
        for (const GroupRecall& r : outcome.group_recall) {
          kept += r.kept_mass;
          mass += r.mass;
        }
        EXPECT_LE(kept, mass * (1 + 1e-9));
        ++checked;
      }
  EXPECT_GT(checked, 20);
}

TEST(OpenLoop, TheOracleOfReadingReachesItsBound) {
  const auto run = synthetic_run();
  const SequenceData data(run, 2);
  const OpenOutcome outcome = run_open(data, job_of("oracle_step", "0.2"), {.group_recall = true});
  for (const GroupRecall& r : outcome.group_recall) {
    if (r.position < outcome.compress_at) continue;
    EXPECT_NEAR(r.kept_mass, r.oracle_mass, 1e-6);
  }
  EXPECT_LT(outcome.touched_frac(), 0.5);
  EXPECT_EQ(outcome.stored_frac(), 1.0);
}

TEST(OpenLoop, RecallGrowsWithTheBudgetOfNestedPolicies) {
  const auto run = synthetic_run();
  const SequenceData data(run, 1);
  for (const char* preset : {"knorm", "random", "observed", "window", "keydiff"}) {
    double before = 0;
    for (const char* amount : {"0.02", "0.1", "0.25", "0.5", "0.75", "0.95", "1"}) {
      const double now = value(run_open(data, job_of(preset, amount, Protocol::blind, 5)), "recall.all");
      EXPECT_GE(now, before - 1e-12) << preset << " " << amount;
      before = now;
    }
    EXPECT_EQ(before, 1.0);
  }
}

TEST(OpenLoop, EqualForAnyThreadCount) {
  const auto run = synthetic_run();
  std::vector<std::map<std::string, double>> found;
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    const SequenceData data(run, 4);
    for (const char* preset : {"tova", "snapkv(window=8)", "h2o(variant=online)", "oracle_step"}) {
      std::map<std::string, double> values;
      for (const auto& [name, metric] : run_open(data, job_of(preset, "0.2")).metrics) values[name] = metric.value;
      found.push_back(std::move(values));
    }
  }
  set_thread_count(0);
  for (std::size_t i = 4; i < found.size(); ++i) EXPECT_EQ(found[i], found[i % 4]);
}

TEST(OpenLoop, StopsInTheMiddleOfAJobWhenCancelled) {
  const auto run = synthetic_run({.context = 70, .question = 6, .answer = 8});
  const std::shared_ptr<const RecordedRun> recorded = run;
  const SequenceData data(recorded, 1);
  const OpenJob job = job_of("snapkv(window=4)", "0.5");
  std::int64_t groups = 0;
  OpenOptions options;
  options.on_plan = [&](const sim::GroupPlan&) {
    ++groups;
    options.cancel.cancel();
  };
  for (int attempt = 0; attempt < 2; ++attempt) {  // in the middle, then before it began
    try {
      (void)run_open(data, job, options);
      FAIL() << "ran to its end";
    } catch (const Error& error) {
      EXPECT_EQ(error.category(), Category::interrupted);
    }
    EXPECT_EQ(groups, 1);
  }
  EXPECT_THROW(SequenceData(recorded, 1, 1 << 20, options.cancel), Error);
}

TEST(OpenLoop, ReferencesTooLargeToKeepGiveTheSameFigures) {
  const auto run = synthetic_run({.window = 40});
  const SequenceData kept(run, 1), again(run, 1, 0);
  for (const char* preset : {"knorm", "tova", "oracle_step"}) {
    const OpenOutcome a = run_open(kept, job_of(preset, "0.2")), b = run_open(again, job_of(preset, "0.2"));
    ASSERT_EQ(a.metrics.size(), b.metrics.size());
    for (const auto& [name, metric] : a.metrics) EXPECT_EQ(metric.value, b.metrics.at(name).value) << preset << name;
  }
}

TEST(OpenLoop, SpansAreFollowed) {
  const auto run = synthetic_run();
  const SequenceData data(run, 1);
  const OpenOutcome window = run_open(data, job_of("streamingllm", "0.1"));
  ASSERT_EQ(window.spans.size(), 1u);
  EXPECT_EQ(window.spans[0].kept_frac, 0.0);  // a third into the context: long gone
  EXPECT_EQ(window.spans[0].first_loss, data.context_end());
  EXPECT_EQ(window.spans[0].first_loss_everywhere, data.context_end());
  EXPECT_EQ(value(window, "span_kept_frac.needle"), 0.0);
  const OpenOutcome whole = run_open(data, job_of("streamingllm", "1"));
  EXPECT_EQ(whole.spans[0].kept_frac, 1.0);
  EXPECT_EQ(whole.spans[0].first_loss, -1);
  const OpenOutcome some = run_open(data, job_of("random", "0.5"));
  EXPECT_GT(some.spans[0].kept_frac, 0.0);
  EXPECT_LE(some.spans[0].kept_worst_frac, some.spans[0].kept_frac);
  EXPECT_GE(some.spans[0].kept_somewhere_frac, some.spans[0].kept_frac);
}

TEST(OpenLoop, WhatIsNotRecordedIsSaid) {
  const auto bare = synthetic_run({.projection = false, .norms = false});
  const SequenceData data(bare, 1);
  const OpenOutcome outcome = run_open(data, job_of("knorm", "0.2"));
  EXPECT_FALSE(outcome.metrics.contains("E.answer"));
  EXPECT_FALSE(outcome.metrics.contains("D.answer"));
  EXPECT_TRUE(outcome.metrics.contains("S.answer"));
  ASSERT_FALSE(outcome.not_measured.empty());
  EXPECT_NE(outcome.not_measured[0].find("output_projection"), std::string::npos);

  const auto sparse = synthetic_run({.recorded_every = 4});
  const SequenceData sampled(sparse, 1);
  EXPECT_EQ(run_open(sampled, job_of("knorm", "0.2")).metrics.at("recall.all").kind, "estimated");
  EXPECT_THROW((void)sampled.source().queries(0, 0, 118, 6), Error);
  try {
    (void)sampled.source().queries(0, 0, 118, 6);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("signal queries"), std::string::npos) << error.what();
  }
}

TEST(OpenLoop, RecordedSumsEqualRecomputedOnes) {
  const auto run = synthetic_run();
  const OpenSource source(run, 1);
  const auto& info = find_sequence(*run, 1);
  for (std::int64_t h = 0; h < run->card().query_heads; ++h) {
    const std::vector<float> recorded = source.column_sums(1, h, info.segments[0].end);
    const Array<float, 2> p = run->attention(1, 1, h);
    for (std::int64_t j = 0; j < info.segments[0].end; ++j) {
      double sum = 0;
      for (std::int64_t i = 0; i < info.segments[0].end; ++i) sum += static_cast<double>(p(i, j));
      EXPECT_NEAR(recorded[static_cast<std::size_t>(j)], sum, 1e-4);
    }
    // In the middle of a segment nothing is recorded: computed from the queries.
    const std::vector<float> middle = source.column_sums(1, h, 77);
    double total = std::accumulate(middle.begin(), middle.end(), 0.0);
    EXPECT_NEAR(total, 77.0, 1e-3);
    const auto whole = source.query_statistics(0, h, 4, info.segments[0].end);
    const auto again = source.query_statistics(0, h, 3, info.segments[0].end);  // not as recorded: computed
    EXPECT_EQ(whole.n + 1, again.n);
    for (std::size_t d = 0; d < whole.mean.size(); ++d) EXPECT_NEAR(whole.mean[d], again.mean[d], 0.1);
  }
}

}  // namespace
}  // namespace kvgrind::replay
