// Norms, rotary embedding, activation and pooling against their references.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "kernels/pool/pool.h"
#include "kernels/rope/rope.h"
#include "tests/kernels/kernel_check.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t sizes[] = {1, 2, 17, 81, 987};

TEST(Norm, RmsNormEqualsReference) {
  std::mt19937_64 rng(base_seed(41));
  for (const std::int64_t hidden : sizes)
    for (const std::int64_t step : {1, 2}) {
      std::vector<float> values = random_values(rng, 7 * hidden);
      values[static_cast<std::size_t>(hidden)] = nan;
      values[static_cast<std::size_t>(2 * hidden)] = infinity;
      for (std::int64_t i = 0; i < hidden; ++i) values[static_cast<std::size_t>(3 * hidden + i)] = 0.0f;
      const std::vector<float> w = random_values(rng, hidden);
      GuardedMatrix x(7, hidden, 3, step, values), found(7, hidden, 1, step), expected(7, hidden);
      kernels::rms_norm(x.view(), w, 1e-5f, found.view());
      kernels::rms_norm_ref(x.view(), w, 1e-5f, expected.view());
      EXPECT_TRUE(near(found.values(), expected.values(), 1e-6, 1e-5)) << hidden;
      EXPECT_TRUE(found.guards_intact());
      kernels::rms_norm(x.view(), w, 1e-5f, x.view());  // in place
      EXPECT_TRUE(same_bits(x.values(), found.values()) || hidden == 0);
    }
}

TEST(Norm, L2NormsEqualReference) {
  std::mt19937_64 rng(base_seed(42));
  for (const std::int64_t width : sizes)
    for (const std::int64_t step : {1, 3}) {
      std::vector<float> values = random_values(rng, 9 * width);
      values[static_cast<std::size_t>(width)] = nan;
      values[static_cast<std::size_t>(2 * width)] = -infinity;
      GuardedMatrix x(9, width, 2, step, values);
      std::vector<float> found(9), expected(9);
      kernels::l2_norms(x.view(), found);
      kernels::l2_norms_ref(x.view(), expected);
      EXPECT_TRUE(near(found, expected, 1e-6, 1e-5));
      EXPECT_FALSE(degenerate(expected));
    }
}

TEST(Norm, ARowsBitsDependOnThatRowAlone) {
  std::mt19937_64 rng(base_seed(43));
  const std::vector<float> w = random_values(rng, 81);
  GuardedMatrix x(17, 81, 0, 1, random_values(rng, 17 * 81)), whole(17, 81), one(1, 81);
  kernels::rms_norm(x.view(), w, 1e-6f, whole.view());
  kernels::rms_norm(x.view().slice(11, 1), w, 1e-6f, one.view());
  const std::vector<float> all = whole.values();
  EXPECT_TRUE(same_bits(one.values(), std::vector<float>(all.begin() + 11 * 81, all.begin() + 12 * 81)));
}

RopeSet rope_set(std::int64_t half, float factor) {
  RopeSet set;
  for (std::int64_t m = 0; m < half; ++m)
    set.inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(m) / static_cast<float>(half)));
  set.attention_factor = factor;
  return set;
}

TEST(Rope, EqualsReferenceAndUndoes) {
  for_all(44, 30, [](std::mt19937_64& rng) {
    const std::int64_t half = 1 + static_cast<std::int64_t>(rng() % 33);
    const std::int64_t dims = 2 * half + static_cast<std::int64_t>(rng() % 5), heads = 1 + rng() % 4,
                       n = 1 + rng() % 20;
    const RopeSet set = rope_set(half, rng() % 2 ? 1.0f : 1.2f);
    std::vector<std::int64_t> position;
    for (std::int64_t t = 0; t < n; ++t) position.push_back(static_cast<std::int64_t>(rng() % 40000));
    const std::vector<float> start = random_values(rng, n * heads * dims);
    std::vector<float> found = start, expected = start;
    const View<float, 3> x(found.data(), {n, heads, dims}), y(expected.data(), {n, heads, dims});
    kernels::rope_apply(set, position, x);
    kernels::rope_apply_ref(set, position, y);
    EXPECT_TRUE(near(found, expected, 3e-5, 1e-5));
    EXPECT_NE(expected, start);
    for (std::int64_t t = 0; t < n; ++t)
      for (std::int64_t d = 2 * half; d < dims; ++d)
        EXPECT_EQ(x(t, 0, d), start[static_cast<std::size_t>(t * heads * dims + d)]);
    kernels::rope_undo(set, position, x);
    EXPECT_TRUE(near(found, start, 1e-4, 1e-5));
    kernels::rope_undo_ref(set, position, y);
    EXPECT_TRUE(near(expected, start, 1e-4, 1e-5));
  });
}

TEST(Rope, HeadsInsideALargerRowLeaveTheRestAlone) {
  std::mt19937_64 rng(base_seed(45));
  const RopeSet set = rope_set(8, 1.0f);
  GuardedMatrix rows(6, 2 * 16, 10, 1, random_values(rng, 6 * 32));
  std::vector<float> expected = rows.values();
  const std::vector<std::int64_t> position = {5, 6, 7, 100, 101, 4095};
  const View<float, 2> r = rows.view();
  kernels::rope_apply(set, position, View<float, 3>(r.data(), {6, 2, 16}, {r.stride(0), 16, 1}));
  kernels::rope_apply_ref(set, position, View<float, 3>(expected.data(), {6, 2, 16}));
  EXPECT_TRUE(near(rows.values(), expected, 3e-5, 1e-5));
  EXPECT_TRUE(rows.guards_intact());
}

TEST(Activation, SiluMulEqualsReferenceAtEveryLevel) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(46));
    for (const std::int64_t width : sizes)
      for (const std::int64_t step : {1, 2}) {
        std::vector<float> gates = random_values(rng, 5 * width, 4.0f);
        gates[0] = nan;
        gates[static_cast<std::size_t>(width)] = infinity;
        gates[static_cast<std::size_t>(2 * width)] = -80.0f;
        gates[static_cast<std::size_t>(3 * width)] = -200.0f;
        GuardedMatrix gate(5, width, 0, step, gates), up(5, width, 1, step, random_values(rng, 5 * width));
        GuardedMatrix found(5, width, 2, step), expected(5, width);
        kernels::silu_mul(gate.view(), up.view(), found.view());
        kernels::silu_mul_ref(gate.view(), up.view(), expected.view());
        EXPECT_TRUE(near(found.values(), expected.values(), 1e-30, 1e-6));
        EXPECT_TRUE(found.guards_intact());
      }
  });
}

TEST(Activation, AnElementsBitsDoNotDependOnItsPlace) {
  at_every_isa([] {
    std::mt19937_64 rng(base_seed(47));
    GuardedMatrix gate(1, 100, 0, 1, random_values(rng, 100)), up(1, 100, 0, 1, random_values(rng, 100)), whole(1, 100);
    kernels::silu_mul(gate.view(), up.view(), whole.view());
    for (std::int64_t i = 0; i < 100; ++i) {
      float one = 0.0f;
      kernels::silu_mul(View<const float, 2>(&gate.view()(0, i), {1, 1}),
                        View<const float, 2>(&up.view()(0, i), {1, 1}), View<float, 2>(&one, {1, 1}));
      EXPECT_EQ(one, whole.view()(0, i));
    }
  });
}

TEST(Pool, EqualsReference) {
  std::mt19937_64 rng(base_seed(48));
  for (const std::int64_t n : sizes)
    for (const std::int64_t kernel : {1, 3, 5, 7, 21}) {
      std::vector<float> in = random_values(rng, n);
      if (n == 81) in[40] = nan, in[60] = infinity, in[10] = -infinity;
      GuardedMatrix found(1, n), expected(1, n);
      const auto out = [n](GuardedMatrix& m) { return std::span<float>(m.view().data(), static_cast<std::size_t>(n)); };
      kernels::pool_avg(in, kernel, out(found));
      kernels::pool_avg_ref(in, kernel, out(expected));
      EXPECT_TRUE(near(found.values(), expected.values(), 1e-5, 1e-6));
      EXPECT_TRUE(found.guards_intact());
      kernels::pool_max(in, kernel, out(found));
      kernels::pool_max_ref(in, kernel, out(expected));
      EXPECT_TRUE(near(found.values(), expected.values(), 0.0, 0.0)) << n << " " << kernel;
      EXPECT_TRUE(found.guards_intact());
    }
}

TEST(Pool, KnownValues) {
  const std::vector<float> in = {3, -6, 9, 0};
  std::vector<float> out(4);
  kernels::pool_avg(in, 3, out);
  EXPECT_EQ(out, (std::vector<float>{-1, 2, 1, 3}));
  kernels::pool_max(in, 3, out);
  EXPECT_EQ(out, (std::vector<float>{3, 9, 9, 9}));
  kernels::pool_max(std::vector<float>{-3, -6, -9, -1}, 3, out);
  EXPECT_EQ(out, (std::vector<float>{-3, -3, -1, -1}));
}

}  // namespace
}  // namespace kvgrind::tests
