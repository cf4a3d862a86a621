// Written, then read: every number is what was fed, in every shape, dtype and order of sequences.
#include <gtest/gtest.h>

#include "tests/support/for_all.h"
#include "tests/traces/kvt_compare.h"

namespace kvgrind::tests {
namespace {

using traces::Recorder;
using traces::RecordOptions;
using traces::Trace;

TEST(KvtRoundTrip, ReturnsWhatWasFedInEveryShape) {
  for_all(11, 12, [](std::mt19937_64& rng) {
    const auto pick = [&rng](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(rng);
    };
    Shape shape;
    shape.layers = pick(1, 3);
    shape.kv_heads = pick(1, 3);
    shape.query_heads = shape.kv_heads * pick(1, 3);
    shape.head_dim = 2 * pick(1, 5);
    shape.dtype = static_cast<DType>(pick(0, 2));
    std::vector<TokenSequence> sequences;
    const std::int64_t n = pick(1, 4);
    for (std::int64_t i = 0; i < n; ++i) {
      TokenSequence one = context_of(pick(1, 150), pick(0, 1) * pick(1, 70));
      if (i > 0 && pick(0, 1)) {
        one.parent = pick(0, i - 1);
        const TokenSequence& parent = sequences[static_cast<std::size_t>(one.parent)];
        one.fork_at = pick(0, parent.fork_at + static_cast<std::int64_t>(parent.ids.size()));
        for (Segment& s : one.segments) s.begin += one.fork_at, s.end += one.fork_at;
      }
      sequences.push_back(one);
    }
    RecordOptions options;
    options.queries = static_cast<traces::QueryContent>(pick(0, 3));
    options.query_window = pick(1, 20);
    options.column_sums = options.pooled_maps = false;
    const Driver driver(shape, sequences);
    const TemporaryFolder folder;
    Recorder recorder(folder / "a.kvt", driver.plan(), options);
    for (std::int64_t i = 0; i < n; ++i) driver.feed(recorder, i, 64 * pick(1, 2));
    recorder.close();
    const auto trace = Trace::open(folder / "a.kvt");
    ASSERT_EQ(trace->state(), traces::TraceState::complete);
    ASSERT_EQ(static_cast<std::int64_t>(trace->sequences().size()), n);
    EXPECT_EQ(trace->card(), card_of(shape));
    EXPECT_GT(expect_equal(driver, *trace, options), 0);
    const traces::CheckReport report = traces::check_trace(folder / "a.kvt", true);
    EXPECT_TRUE(report.ok) << (report.findings.empty() ? "" : report.findings[0]);
  });
}

TEST(KvtRoundTrip, OneTokenZeroTokensAndZeroSequences) {
  const TemporaryFolder folder;
  {
    const Driver driver({}, {context_of(1)});
    Recorder recorder(folder / "one.kvt", driver.plan(), {});
    driver.feed(recorder, 0, 64);
    recorder.close();
    const auto trace = Trace::open(folder / "one.kvt");
    EXPECT_EQ(trace->rows(), 1);
    EXPECT_EQ(expect_equal(driver, *trace, {}), 1);
  }
  {
    const Driver driver({}, {});
    Recorder recorder(folder / "none.kvt", driver.plan(), {});
    recorder.close();
    const auto trace = Trace::open(folder / "none.kvt");
    EXPECT_EQ(trace->rows(), 0);
    EXPECT_TRUE(trace->sequences().empty());
    EXPECT_EQ(trace->state(), traces::TraceState::complete);
  }
}

TEST(KvtRoundTrip, PassesLongerThanAChunkAndTailsShorter) {
  const TemporaryFolder folder(false);  // on a disk, with fsync
  const Driver driver({}, {context_of(333), context_of(70, 130)});
  RecordOptions options;
  options.column_sums = options.pooled_maps = false;
  Recorder recorder(folder / "a.kvt", driver.plan(), options);
  driver.feed(recorder, 0, 1 << 20);  // all at once: several chunks in one pass
  driver.feed(recorder, 1, 64);
  recorder.close();
  EXPECT_EQ(expect_equal(driver, *Trace::open(folder / "a.kvt"), options), 333 + 70 + 129);
}

TEST(KvtRoundTrip, InterleavedSequencesKeepTheirPositions) {
  const TemporaryFolder folder;
  const Driver driver({}, {context_of(100), context_of(90)});
  RecordOptions options;
  options.column_sums = options.pooled_maps = false;
  Recorder recorder(folder / "a.kvt", driver.plan(), options);
  for (std::int64_t at = 0; at < 100; at += 25) {
    driver.pass(recorder, 0, at, 25, false, false);
    if (at < 90) driver.pass(recorder, 1, at, std::min<std::int64_t>(25, 90 - at), false, false);
  }
  recorder.sequence_done(0);
  recorder.sequence_done(1);
  recorder.close();
  EXPECT_EQ(expect_equal(driver, *Trace::open(folder / "a.kvt"), options), 190);
  EXPECT_TRUE(traces::check_trace(folder / "a.kvt", true).ok);
}

TEST(KvtRoundTrip, PreRopeKeysAreTheInverseRotation) {
  const TemporaryFolder folder;
  const Driver driver({}, {context_of(60)});
  Recorder recorder(folder / "a.kvt", driver.plan(), {});
  driver.feed(recorder, 0, 64);
  recorder.close();
  const auto trace = Trace::open(folder / "a.kvt");
  const std::vector<float> inv_freq = trace->card().rope[0].inv_freq;
  const Array<float, 2> post = trace->keys(0, 1, 1), pre = trace->keys(0, 1, 1, traces::KeyRope::pre);
  const std::int64_t half = post.extent(1) / 2;
  for (std::int64_t t = 0; t < 60; ++t)
    for (std::int64_t m = 0; m < half; ++m) {
      const double angle = static_cast<double>(static_cast<float>(t) * inv_freq[static_cast<std::size_t>(m)]);
      const double x = pre(t, m), y = pre(t, m + half);
      EXPECT_NEAR(x * std::cos(angle) - y * std::sin(angle), post(t, m), 1e-5);
      EXPECT_NEAR(x * std::sin(angle) + y * std::cos(angle), post(t, m + half), 1e-5);
    }
}

TEST(KvtRoundTrip, NextTokenLogProbabilitiesAndNll) {
  const TemporaryFolder folder;
  TokenSequence question = context_of(10, 5);
  question.parent = 0;
  question.fork_at = 20;
  question.segments = {{Role::question, 20, 30}};
  const Driver driver({}, {context_of(20, 9), question});
  Recorder recorder(folder / "a.kvt", driver.plan(), {});
  driver.feed(recorder, 0, 64);
  driver.feed(recorder, 1, 64);
  recorder.close();
  const auto trace = Trace::open(folder / "a.kvt");
  for (std::int64_t s = 0; s < 2; ++s) {
    const std::int64_t T = trace->sequences()[static_cast<std::size_t>(s)].tokens;
    EXPECT_EQ(T, s == 0 ? 28 : 34);
    EXPECT_EQ(trace->next_token(s), driver.token(s, T));
    const std::vector<float> nll = trace->nll(s);
    const Array<std::int32_t, 2> ids = trace->top_ids(s);
    const Array<float, 2> log_p = trace->top_log_probabilities(s);
    for (std::int64_t t = 0; t < T; ++t) {
      const std::vector<float> logits = driver.logits(driver.source(s, t), t);
      double sum = 0.0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x));
      const std::int32_t next = driver.token(s, t + 1);
      if (s == 1 && t == 19 && driver.token(0, 20) != next) {
        EXPECT_TRUE(std::isnan(nll[19]));
      } else {
        EXPECT_NEAR(nll[static_cast<std::size_t>(t)],
                    std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(next)]), 1e-5)
            << t;
      }
      std::vector<std::int32_t> order(logits.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
      });
      for (std::int64_t i = 0; i < 64; ++i) {
        EXPECT_EQ(ids(t, i), order[static_cast<std::size_t>(i)]);
        EXPECT_NEAR(
            log_p(t, i),
            static_cast<double>(logits[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]) - std::log(sum),
            1e-5);
      }
    }
  }
}

TEST(KvtRoundTrip, SegmentsSpansAndWhatWasGenerated) {
  const TemporaryFolder folder;
  TokenSequence context = context_of(40);
  context.spans = {{"needle", 5, 9, "the key"}, {"sentence", 0, 40, ""}};
  TokenSequence question = context_of(10, 4);
  question.parent = 0;
  question.fork_at = 40;
  question.segments = {{Role::question, 40, 46}, {Role::answer, 46, 50}};
  question.spans = {{"answer", 46, 50, ""}};
  const Driver driver({}, {context, question});
  Recorder recorder(folder / "a.kvt", driver.plan(), {});
  driver.feed(recorder, 0, 64);
  driver.feed(recorder, 1, 64);
  recorder.close();
  const auto trace = Trace::open(folder / "a.kvt");
  const traces::SequenceInfo& info = trace->sequences()[1];
  EXPECT_EQ(info.segments,
            (std::vector<Segment>{
                {Role::context, 0, 40}, {Role::question, 40, 46}, {Role::answer, 46, 50}, {Role::generated, 50, 53}}));
  EXPECT_EQ(info.spans,
            (std::vector<Span>{{"needle", 5, 9, "the key"}, {"sentence", 0, 40, ""}, {"answer", 46, 50, ""}}));
  EXPECT_EQ(info.own_rows, 13);
}

TEST(KvtRoundTrip, OutputProjectionIsStoredUnlessItIsTooBig) {
  const TemporaryFolder folder;
  const Driver big({.hidden = 4096}, {context_of(10)}), small({.hidden = 4}, {context_of(400)});
  RecordOptions options;
  options.column_sums = options.pooled_maps = false;
  Recorder first(folder / "big.kvt", big.plan(), options), second(folder / "small.kvt", small.plan(), options);
  big.feed(first, 0, 64);
  small.feed(second, 0, 64);
  first.close();
  second.close();
  const auto without = Trace::open(folder / "big.kvt"), with = Trace::open(folder / "small.kvt");
  EXPECT_FALSE(without->output_projection(0).has_value());
  bool said = false;
  for (const std::string& line : without->not_recorded())
    said = said || line.find("output projection") != std::string::npos;
  EXPECT_TRUE(said);
  for (std::int64_t l = 0; l < 2; ++l) {
    const Array<float, 2> expected = small.plan().output_projection(l), found = with->output_projection(l).value();
    ASSERT_EQ(found.extents(), expected.extents());
    EXPECT_TRUE(std::equal(expected.data(), expected.data() + expected.size(), found.data()));
  }
}

// In a fp32 recording of 16-bit weights, W_O stays at 16 bits where that loses nothing.
TEST(KvtRoundTrip, OutputProjectionIsInTheWeightsDtypeWhereThatIsExact) {
  const TemporaryFolder folder;
  const Driver driver({.hidden = 4}, {context_of(400)});
  for (const bool exact : {true, false}) {
    Recorder::Plan plan = driver.plan();
    plan.card.cache_dtype = DType::bf16;
    plan.output_projection = [&, old = plan.output_projection](std::int64_t layer) {
      Array<float, 2> w = old(layer);
      for (std::int64_t i = 0; i < w.size(); ++i)
        w.data()[i] = static_cast<float>((i * 7 + layer) % 101) + (exact ? 0.0f : 0.001f);
      return w;
    };
    RecordOptions options;
    options.column_sums = options.pooled_maps = false;
    const std::filesystem::path path = folder / (exact ? "exact.kvt" : "rounded.kvt");
    Recorder recorder(path, plan, options);
    driver.feed(recorder, 0, 64);
    recorder.close();
    const auto trace = Trace::open(path);
    EXPECT_EQ(trace->card().dtype, DType::f32);
    for (std::int64_t l = 0; l < 2; ++l) {
      const Array<float, 2> expected = plan.output_projection(l), found = trace->output_projection(l).value();
      ASSERT_EQ(found.extents(), expected.extents());
      EXPECT_TRUE(std::equal(expected.data(), expected.data() + expected.size(), found.data())) << exact;
    }
    traces::repair_trace(path, folder / "again.kvt", true);
    EXPECT_EQ(Trace::open(folder / "again.kvt")->output_projection(1)->data()[3], plan.output_projection(1).data()[3]);
  }
}

TEST(KvtRoundTrip, RepairOfASoundFileIsTheSameRecording) {
  const TemporaryFolder folder;
  TokenSequence fork = context_of(30, 6);
  fork.parent = 0;
  fork.fork_at = 50;
  fork.segments = {{Role::question, 50, 80}};
  const Driver driver({.dtype = DType::bf16}, {context_of(100), fork});
  Recorder recorder(folder / "a.kvt", driver.plan(), {});
  driver.feed(recorder, 0, 64);
  driver.feed(recorder, 1, 64);
  recorder.close();
  const json::object report = traces::repair_trace(folder / "a.kvt", folder / "b.kvt", false);
  EXPECT_EQ(report.at("kept_tokens").as_int64(), 135);
  const auto a = Trace::open(folder / "a.kvt"), b = Trace::open(folder / "b.kvt");
  EXPECT_EQ(a->hash(), b->hash());
  EXPECT_EQ(b->state(), traces::TraceState::complete);
  EXPECT_EQ(expect_equal(driver, *b, {}), 100 + 85);
  const traces::CheckReport check = traces::check_trace(folder / "b.kvt", true);
  EXPECT_TRUE(check.ok) << (check.findings.empty() ? "" : check.findings[0]);
  EXPECT_TRUE(b->column_sums(1, 0, 1).has_value());
  EXPECT_TRUE(b->pooled_map(1, 0, 0).has_value());
}

// One file of each released format, never written anew: old recordings stay readable. KVGRIND_REGENERATE=1 makes it
// where there is none yet.
TEST(KvtRoundTrip, TheFrozenFileOfFormatOneIsReadable) {
  const std::filesystem::path path = std::filesystem::path(KVGRIND_SOURCE_DIR) / "tests/golden/trace_format_1.kvt";
  TokenSequence context = context_of(70);
  context.spans = {{"needle", 5, 9, "the key"}};
  TokenSequence fork = context_of(12, 4);
  fork.parent = 0;
  fork.fork_at = 70;
  fork.segments = {{Role::question, 70, 82}};
  const Driver driver({.head_dim = 4, .hidden = 3, .vocab = 70, .dtype = DType::bf16}, {context, fork});
  if (std::getenv("KVGRIND_REGENERATE") && !std::filesystem::exists(path)) {
    Recorder recorder(path, driver.plan(), {.anonymous = true});
    driver.feed(recorder, 0, 64);
    driver.feed(recorder, 1, 64);
    recorder.close();
  }
  const auto trace = Trace::open(path);
  EXPECT_EQ(expect_equal(driver, *trace, {}), 70 + 85);
  EXPECT_TRUE(traces::check_trace(path, true).ok);
  EXPECT_EQ(trace->hash(), "45e5eb92696ee164");
  EXPECT_TRUE(trace->column_sums(1, 1, -1).has_value());
  EXPECT_TRUE(trace->pooled_map(1, 1, 3).has_value());
  EXPECT_EQ(trace->query_statistics(1, 0, 0).size(), 3u);
}

TEST(KvtRoundTrip, AnonymousFilesNameNoHostUserOrPath) {
  const TemporaryFolder folder;
  const Driver driver({}, {context_of(4)});
  Recorder::Plan plan = driver.plan();
  plan.provenance["command"] = "kvgrind record --model /srv/data/m --out=/srv/x.kvt";
  Recorder recorder(folder / "a.kvt", plan, {.anonymous = true});
  driver.feed(recorder, 0, 64);
  recorder.close();
  const std::string text = json_text(Trace::open(folder / "a.kvt")->provenance());
  EXPECT_EQ(text.find("srv"), std::string::npos) << text;
  EXPECT_EQ(text.find("\"host\""), std::string::npos);
  EXPECT_EQ(text.find("\"user\""), std::string::npos);
}

}  // namespace
}  // namespace kvgrind::tests
