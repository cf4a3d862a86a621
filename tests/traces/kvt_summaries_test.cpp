// Sources that sum attention, queries and predictions themselves and hand over the sums: the file is the one that a
// source which shows everything gets.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/traces/kvt_driver.h"
#include "traces/kvt/attention_sums.h"
#include "traces/kvt/next_token.h"
#include "traces/kvt/query_moments.h"

namespace kvgrind::traces {
namespace {

using tests::Driver;

// Shows neither probabilities, nor pre-RoPE queries, nor logits; hands over predictions instead.
class Bare final : public Tap {
 public:
  Bare(Recorder& recorder, const Driver& driver) : recorder_(recorder), driver_(driver) {}
  void begin(const TapPass& pass) override {
    pass_ = pass;
    recorder_.begin(pass);
  }
  void layer(const TapLayer& shown) override {
    TapLayer own = shown;
    own.q_pre = {};
    recorder_.layer(own);
  }
  void end(const TapEnd& shown) override {
    const auto n = static_cast<std::int64_t>(pass_.ids.size());
    const TokenSequence& one = driver_.sequences()[static_cast<std::size_t>(pass_.sequence)];
    std::vector<std::int32_t> id(static_cast<std::size_t>(n * 64));
    std::vector<float> log_p(id.size()), nll;
    bool later = false;
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t position = pass_.first + i;
      const std::vector<float> logits = driver_.logits(pass_.sequence, position);
      const double sum = top_log_probabilities(logits, id.data() + i * 64, log_p.data() + i * 64);
      const bool known = position + 1 - one.fork_at < static_cast<std::int64_t>(one.ids.size());
      const std::int32_t next = driver_.token(pass_.sequence, position + 1);
      nll.push_back(known ? static_cast<float>(sum - static_cast<double>(logits[static_cast<std::size_t>(next)]))
                          : NAN);
      later = !known;
    }
    recorder_.next_tokens({.top_id = id.data(), .top_logp = log_p.data(), .nll = nll.data(), .last_later = later});
    recorder_.end({.final_residual = shown.final_residual, .logits = {}, .logit_rows = {}});
    if (later) recorder_.last_logits(driver_.logits(pass_.sequence, pass_.first + n - 1));
  }

 private:
  Recorder& recorder_;
  const Driver& driver_;
  TapPass pass_;
};

// Sums over the whole sequence, in plain loops.
void hand_over(Recorder& recorder, const Driver& driver, std::int64_t tokens, std::int64_t announced) {
  const tests::Shape& s = driver.shape();
  const std::int64_t cell = map_cell_tokens(announced), side = (announced + cell - 1) / cell, D = s.head_dim;
  const TokenSequence& one = driver.sequences()[0];
  for (std::int64_t l = 0; l < s.layers; ++l) {
    Array<float, 2> most({s.query_heads, triangle(side)}), sum({s.query_heads, triangle(side)});
    std::vector<Array<float, 2>> columns(one.segments.size() + 1);
    for (auto& c : columns) c = Array<float, 2>({s.query_heads, tokens});
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t h = 0; h < s.query_heads; ++h) {
        const std::vector<float> p = tests::fed_attention(0, t, l, h);
        std::size_t part = one.segments.size();
        for (std::size_t i = 0; i < one.segments.size(); ++i)
          if (t >= one.segments[i].begin && t < one.segments[i].end) part = i;
        for (std::int64_t j = 0; j <= t; ++j) {
          const float x = p[static_cast<std::size_t>(j)];
          const std::int64_t at = triangle(t / cell) + j / cell;
          most(h, at) = std::max(most(h, at), x);
          sum(h, at) += x;
          if (t < static_cast<std::int64_t>(one.ids.size())) columns[part](h, j) += x;
        }
      }
    recorder.pooled_map(0, l, most, sum);
    for (std::size_t i = 0; i < columns.size(); ++i)
      recorder.column_sums(0, l, i == one.segments.size() ? -1 : static_cast<std::int64_t>(i), columns[i]);
    const auto own = static_cast<std::int64_t>(one.ids.size());
    std::vector<Segment> parts = one.segments;
    parts.push_back({Role::generated, own, tokens});
    for (std::size_t part = 0; part < parts.size(); ++part) {
      std::vector<double> mean(static_cast<std::size_t>(s.query_heads * D)), modulus(mean.size() / 2),
          second(mean.size() * static_cast<std::size_t>(D));
      std::int64_t n = 0;
      for (std::int64_t t = std::max(parts[part].begin, ignored_queries); t < std::min(parts[part].end, tokens); ++t) {
        const Array<float, 3> q = driver.rows("q_pre", 0, t, 1, l, s.query_heads, D);
        ++n;
        for (std::int64_t h = 0; h < s.query_heads; ++h)
          for (std::int64_t d = 0; d < D; ++d) {
            mean[static_cast<std::size_t>(h * D + d)] += q(0, h, d);
            if (d < D / 2)
              modulus[static_cast<std::size_t>(h * D / 2 + d)] += std::hypot(q(0, h, d), q(0, h, d + D / 2));
            for (std::int64_t e = 0; e < D; ++e)
              second[static_cast<std::size_t>((h * D + d) * D + e)] += q(0, h, d) * q(0, h, e);
          }
      }
      if (n > 0)
        recorder.query_moments(0, l, part + 1 == parts.size() ? -1 : static_cast<std::int64_t>(part), n, mean.data(),
                               modulus.data(), second.data());
    }
  }
}

double largest(const float* a, const float* b, std::int64_t n) {
  double out = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= out)) out = d;
  }
  return out;
}

TEST(KvtSummaries, SumsHandedOverGiveTheFileOfASourceThatShowsEverything) {
  const tests::TemporaryFolder folder;
  TokenSequence one = tests::context_of(90, 12);
  one.segments = {{Role::context, 0, 60}, {Role::question, 60, 80}};  // ten queries of none
  const Driver driver({}, {one});
  const std::int64_t tokens = 90 + 11;
  {
    Recorder shown(folder / "shown.kvt", driver.plan(), {});
    driver.feed(shown, 0, 64);
    shown.close();
    Recorder summed(folder / "summed.kvt", driver.plan(), {});
    Bare bare(summed, driver);
    driver.pass(bare, 0, 0, 64, false, false);
    driver.pass(bare, 0, 64, 26, false, false);
    for (std::int64_t t = 90; t < tokens; ++t) driver.pass(bare, 0, t, 1, true, false);
    hand_over(summed, driver, tokens, tokens);
    summed.sequence_done(0, driver.token(0, tokens));
    summed.close();
  }
  EXPECT_TRUE(check_trace(folder / "summed.kvt", true).ok);
  const auto a = Trace::open(folder / "shown.kvt", {.probe = false}),
             b = Trace::open(folder / "summed.kvt", {.probe = false});
  const auto x = a->nll(0), y = b->nll(0);
  ASSERT_EQ(x.size(), y.size());
  EXPECT_FALSE(std::isnan(y[89]) || std::isnan(y[95]));  // resolved when the next token was known
  EXPECT_LE(largest(x.data(), y.data(), tokens), 1e-6);
  const Array<std::int32_t, 2> ids = a->top_ids(0), same = b->top_ids(0);
  EXPECT_TRUE(std::equal(ids.data(), ids.data() + tokens * 64, same.data()));
  for (std::int64_t l = 0; l < driver.shape().layers; ++l)
    for (std::int64_t h = 0; h < driver.shape().query_heads; ++h) {
      const auto m = a->pooled_map(0, l, h), n = b->pooled_map(0, l, h);
      ASSERT_TRUE(m && n);
      EXPECT_LE(largest(m->max.data(), n->max.data(), m->max.size()), 0.0);
      for (std::int64_t i = 0; i < m->mean.size(); ++i)  // one step of the codes
        EXPECT_LE(std::fabs(m->mean.data()[i] - n->mean.data()[i]), 0.06f * m->mean.data()[i]);
      const auto s = a->query_statistics(0, l, h), t = b->query_statistics(0, l, h);
      ASSERT_EQ(s.size(), t.size());
      ASSERT_EQ(t.size(), 3u);
      for (std::size_t i = 0; i < s.size(); ++i) {
        EXPECT_EQ(s[i].n, t[i].n);
        EXPECT_LE(largest(s[i].mean.data(), t[i].mean.data(), 8), 1e-5);
        EXPECT_LE(largest(s[i].mean_modulus.data(), t[i].mean_modulus.data(), 4), 1e-5);
        EXPECT_LE(largest(s[i].second_moment.data(), t[i].second_moment.data(), 64), 1e-5);
      }
      for (const std::int64_t segment : {-1, 0, 1}) {
        const auto c = a->column_sums(0, l, segment), d = b->column_sums(0, l, segment);
        ASSERT_TRUE(c && d);
        EXPECT_LE(largest(c->data(), d->data(), c->size()), 1e-4);
      }
    }
}

}  // namespace
}  // namespace kvgrind::traces
