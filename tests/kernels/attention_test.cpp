#include "kernels/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/array.h"
#include "tests/kernels/kernel_check.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

using kernels::attention;
using kernels::attention_ref;
using kernels::AttentionParams;

struct Problem {
  std::int64_t n_q = 0, n_k = 0, dims = 0;
  GuardedMatrix q, k, v;
  std::vector<std::int64_t> q_position, k_position;
  std::vector<float> log_count;
  float sink = 0.0f;
  AttentionParams params;

  // Queries at `first_query`…; keys at 0… unless changed.
  Problem(std::mt19937_64& rng, std::int64_t queries, std::int64_t keys, std::int64_t d, std::int64_t first_query,
          std::int64_t pad = 0, std::int64_t step = 1)
      : n_q(queries),
        n_k(keys),
        dims(d),
        q(queries, d, pad, step, random_values(rng, queries * d)),
        k(keys, d, pad, step, random_values(rng, keys * d, 0.5f)),
        v(keys, d, pad, step, random_values(rng, keys * d)),
        q_position(static_cast<std::size_t>(queries)),
        k_position(static_cast<std::size_t>(keys)) {
    std::iota(q_position.begin(), q_position.end(), first_query);
    std::iota(k_position.begin(), k_position.end(), 0);
    params.q = q.view();
    params.k = k.view();
    params.v = v.view();
    params.q_position = q_position;
    params.k_position = k_position;
    params.scale = 1.0f / std::sqrt(static_cast<float>(d));
  }
  Problem(const Problem&) = delete;
};

struct Result {
  std::vector<float> out, lse, p;
  bool guards = true;
};

template <class Function>
Result run(const Problem& problem, Function function, bool want_p = true, std::int64_t begin = 0,
           std::int64_t rows = -1) {
  if (rows < 0) rows = problem.n_q;
  AttentionParams params = problem.params;
  params.q = params.q.slice(begin, rows);
  params.q_position = params.q_position.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(rows));
  GuardedMatrix out(rows, problem.dims, 3, 2), lse(1, rows);
  params.out = out.view();
  params.lse = lse.view().data();
  std::vector<float> p;
  std::int64_t next = 0;
  if (want_p)
    params.probabilities = [&](std::int64_t first, View<const float, 2> block) {
      EXPECT_EQ(first, next);
      EXPECT_EQ(block.extent(1), problem.n_k);
      const bool ascending = params.q_position.back() - params.q_position.front() == rows - 1;
      EXPECT_TRUE(first == 0 || (ascending ? params.q_position[static_cast<std::size_t>(first)] : first) % 64 == 0);
      next += block.extent(0);
      for (std::int64_t i = 0; i < block.extent(0); ++i)
        for (std::int64_t j = 0; j < block.extent(1); ++j) p.push_back(block(i, j));
    };
  function(params);
  if (want_p) {
    EXPECT_EQ(next, rows);
  }
  return {out.values(), lse.values(), p, out.guards_intact() && lse.guards_intact()};
}

void expect_equal(const Result& found, const Result& expected, double tolerance) {
  EXPECT_TRUE(found.guards);
  EXPECT_TRUE(near(found.lse, expected.lse, tolerance, 1e-6)) << "lse";
  EXPECT_TRUE(near(found.out, expected.out, 30.0 * tolerance, tolerance)) << "out";
  EXPECT_TRUE(near(found.p, expected.p, tolerance, 1e-4)) << "p";
  for (std::size_t i = 0; i < std::min(found.p.size(), expected.p.size()); ++i)
    if (expected.p[i] == 0.0f) {
      EXPECT_EQ(found.p[i], 0.0f) << "masked pair " << i;
    }
}

TEST(Attention, EqualsReferenceAtEverySize) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(21));
    for (const std::int64_t dims : {1, 17, 32, 64, 128})
      for (const std::int64_t keys : {1, 2, 17, 81, 987})
        for (const std::int64_t queries : {1, 2, 5, 8, 17, 64, 81}) {
          if (keys == 987 && queries == 81 && dims != 64) continue;
          SCOPED_TRACE(testing::Message() << "n_q " << queries << " n_k " << keys << " D " << dims);
          const Problem problem(rng, queries, keys, dims, std::max<std::int64_t>(0, keys - queries), 2);
          const Result expected = run(problem, attention_ref);
          if (keys > 1) {
            EXPECT_FALSE(degenerate(expected.out));
          }
          expect_equal(run(problem, attention), expected, 1e-4);
        }
  });
}

TEST(Attention, WindowsSoftcapSinksCountsAndScatteredKeys) {
  at_every_isa([] {
    for_all(22, 60, [](std::mt19937_64& rng) {
      const std::int64_t keys = 1 + static_cast<std::int64_t>(rng() % 400),
                         queries = 1 + static_cast<std::int64_t>(rng() % 90);
      Problem problem(rng, queries, keys, rng() % 2 ? 32 : 20, static_cast<std::int64_t>(rng() % 300), 1,
                      1 + rng() % 2);
      // An evicted cache: gaps, and in half of the cases no order.
      std::int64_t at = 0;
      for (std::int64_t& position : problem.k_position) position = at += 1 + static_cast<std::int64_t>(rng() % 3);
      if (rng() % 2) std::shuffle(problem.k_position.begin(), problem.k_position.end(), rng);
      if (rng() % 2) problem.params.window = 1 + static_cast<std::int64_t>(rng() % 200);
      if (rng() % 2) problem.params.softcap = rng() % 2 ? 20.0f : 2.0f;
      problem.sink = 1.5f;
      if (rng() % 2) problem.params.sink = &problem.sink;
      problem.log_count = random_values(rng, keys);
      if (rng() % 2) problem.params.log_count = problem.log_count.data();
      expect_equal(run(problem, attention), run(problem, attention_ref), 1e-4);
    });
  });
}

TEST(Attention, ProbabilitiesOfARowSumToOne) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(23));
    const Problem problem(rng, 70, 600, 64, 530);
    const Result found = run(problem, attention);
    for (std::int64_t i = 0; i < 70; ++i) {
      double sum = 0.0;
      for (std::int64_t j = 0; j < 600; ++j) sum += static_cast<double>(found.p[static_cast<std::size_t>(i * 600 + j)]);
      EXPECT_TRUE(std::abs(sum - 1.0) <= 1e-5) << "row " << i << ": " << sum;
    }
  });
}

TEST(Attention, RowsThatSeeNothing) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(24));
    Problem problem(rng, 10, 40, 32, 0);
    for (std::int64_t& position : problem.k_position) position += 5;  // rows 0 to 4 see no key
    const Result found = run(problem, attention);
    expect_equal(found, run(problem, attention_ref), 1e-4);
    EXPECT_EQ(found.lse[4], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(found.out[4 * 32], 0.0f);
    EXPECT_TRUE(std::isfinite(found.lse[5]));
    problem.sink = 0.25f;
    problem.params.sink = &problem.sink;
    EXPECT_EQ(run(problem, attention).lse[0], 0.25f);
    const Problem empty(rng, 3, 0, 32, 0);
    expect_equal(run(empty, attention), run(empty, attention_ref), 1e-4);
  });
}

TEST(Attention, ARowsBitsDependOnThatRowAlone) {
  at_every_isa([] {
    for_all(25, 12, [](std::mt19937_64& rng) {
      const std::int64_t keys = 500, queries = 150, dims = rng() % 2 ? 64 : 36;
      Problem problem(rng, queries, keys, dims, 333);
      if (rng() % 2) problem.params.window = 100;
      if (rng() % 2) problem.params.softcap = rng() % 2 ? 30.0f : 2.0f;
      const Result whole = run(problem, attention);
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 9, 16, 20, 33, 64, 100}) {
        const std::int64_t begin = static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(queries - rows + 1));
        SCOPED_TRACE(testing::Message() << rows << " rows from " << begin);
        const Result part = run(problem, attention, rng() % 2, begin, rows);
        const auto slice = [&](const std::vector<float>& all, std::int64_t width) {
          return std::vector<float>(all.begin() + begin * width, all.begin() + (begin + rows) * width);
        };
        EXPECT_TRUE(same_bits(part.out, slice(whole.out, dims)));
        EXPECT_TRUE(same_bits(part.lse, slice(whole.lse, 1)));
        if (!part.p.empty()) {
          EXPECT_TRUE(same_bits(part.p, slice(whole.p, keys)));
        }
      }
    });
  });
}

TEST(Attention, QueriesInAnyOrderAndSeveralAtOnePosition) {
  at_every_isa([] {
    for_all(32, 20, [](std::mt19937_64& rng) {
      const std::int64_t queries = 1 + static_cast<std::int64_t>(rng() % 140);
      Problem problem(rng, queries, 400, 32, 0);
      if (rng() % 2) problem.params.window = 1 + static_cast<std::int64_t>(rng() % 300);
      const bool equal = rng() % 2;
      for (std::int64_t& position : problem.q_position) position = equal ? 250 : static_cast<std::int64_t>(rng() % 500);
      problem.q_position[0] = 250;
      const Result whole = run(problem, attention);
      expect_equal(whole, run(problem, attention_ref), 1e-4);
      for (const std::int64_t i : {std::int64_t{0}, queries / 2, queries - 1}) {
        const Result one = run(problem, attention, true, i, 1);
        EXPECT_TRUE(std::equal(one.out.begin(), one.out.end(), whole.out.begin() + i * 32));
        EXPECT_TRUE(std::equal(one.p.begin(), one.p.end(), whole.p.begin() + i * 400));
      }
    });
  });
}

TEST(Attention, KeysOfTheFutureChangeNoBit) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(26));
    const Problem whole(rng, 64, 700, 64, 128);
    Problem cut(rng, 64, 192, 64, 128);
    AttentionParams params = whole.params;
    params.k = params.k.slice(0, 192);
    params.v = params.v.slice(0, 192);
    params.k_position = params.k_position.subspan(0, 192);
    cut.params = params;
    EXPECT_TRUE(same_bits(run(whole, attention, false).out, run(cut, attention, false).out));
  });
}

TEST(Attention, ThreadCountChangesNoBit) {
  std::mt19937_64 rng(base_seed(27));
  const Problem problem(rng, 100, 300, 64, 200);
  std::vector<Result> results(8);
  for (const int threads : {1, 2}) {
    const Threads scope(threads);
    parallel_for(
        4, [&](std::int64_t i) { results[static_cast<std::size_t>(4 * (threads - 1) + i)] = run(problem, attention); });
  }
  for (const Result& result : results) {
    EXPECT_TRUE(same_bits(result.out, results[0].out));
    EXPECT_TRUE(same_bits(result.p, results[0].p));
  }
}

TEST(Attention, NanAndInfinityAsTheReference) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  at_every_isa([&] {
    for (const float bad : {nan, infinity, -infinity})
      for (const char* where : {"q", "k", "v"}) {
        SCOPED_TRACE(testing::Message() << bad << " in " << where);
        std::mt19937_64 rng(base_seed(28));
        Problem problem(rng, 40, 200, 32, 150);
        problem.params.scale *= 0.05f;  // no weight underflows: 0 times an infinite value would be NaN
        // Position 170 is masked for the first 20 rows, in the same tile as keys that they see.
        if (*where == 'q') problem.q.view()(7, 3) = bad;
        if (*where == 'k') problem.k.view()(170, 3) = bad;
        if (*where == 'v') problem.v.view()(170, 3) = bad;
        const Result found = run(problem, attention), expected = run(problem, attention_ref);
        expect_equal(found, expected, 1e-4);
        EXPECT_TRUE(std::isfinite(found.out[0]));
      }
  });
}

TEST(Attention, MaskedValuesThatAreNotFiniteChangeNoBit) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(29));
    Problem problem(rng, 40, 200, 32, 150);
    const Result clean = run(problem, attention);
    problem.v.view()(199, 3) = std::numeric_limits<float>::infinity();  // beyond every query
    EXPECT_TRUE(same_bits(run(problem, attention).out, clean.out));
  });
}

TEST(Attention, WantsNothingItIsNotAskedFor) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(30));
    const Problem problem(rng, 9, 120, 64, 100);
    AttentionParams params = problem.params;
    std::vector<float> lse(9);
    params.lse = lse.data();
    params.v = View<const float, 2>();
    attention(params);
    EXPECT_TRUE(same_bits(lse, run(problem, attention).lse));
  });
}

TEST(Attention, TheCallbackMayCallAttention) {
  std::mt19937_64 rng(base_seed(33));
  const Problem problem(rng, 70, 300, 32, 200);
  const Result expected = run(problem, attention);
  AttentionParams params = problem.params;
  std::vector<float> p;
  params.probabilities = [&](std::int64_t, View<const float, 2> block) {
    const Result inner = run(problem, attention);
    EXPECT_TRUE(same_bits(inner.p, expected.p));
    for (std::int64_t i = 0; i < block.extent(0); ++i)
      for (std::int64_t j = 0; j < block.extent(1); ++j) p.push_back(block(i, j));
  };
  attention(params);
  EXPECT_TRUE(same_bits(p, expected.p));
}

TEST(Attention, ExtremeLogits) {
  at_every_isa([] {
    for (const float scale : {1e-6f, 3.0f, 30.0f}) {
      std::mt19937_64 rng(base_seed(31));
      Problem problem(rng, 20, 300, 16, 280);
      problem.params.scale = scale;
      // Logits of 1e5 resolve 8e-3 in fp32: the comparison is of lse relative to its size.
      const Result found = run(problem, attention, false), expected = run(problem, attention_ref, false);
      EXPECT_TRUE(near(found.lse, expected.lse, 1e-4, 1e-6));
      for (const float value : found.out) EXPECT_TRUE(std::isfinite(value));
    }
  });
}

}  // namespace
}  // namespace kvgrind::tests
