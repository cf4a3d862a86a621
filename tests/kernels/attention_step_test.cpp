// Several query heads at one position: a decode step in which they share a cache group.
#include <gtest/gtest.h>

#include "core/array.h"
#include "kernels/attention/attention.h"
#include "tests/kernels/kernel_check.h"
#include "tests/support/for_all.h"

namespace kvgrind::tests {
namespace {

TEST(AttentionStep, EachHeadAsIfAlone) {
  at_every_isa([] {
    for_all(31, 40, [](std::mt19937_64& rng) {
      const auto below = [&](std::int64_t n) { return static_cast<std::int64_t>(rng() % static_cast<unsigned>(n)); };
      const std::int64_t heads = 1 + below(9), keys = 1 + below(200), dims = 1 + below(40);
      const auto q = random_values(rng, heads * dims), k = random_values(rng, keys * dims, 0.5f),
                 v = random_values(rng, keys * dims), counts = random_values(rng, keys);
      std::vector<std::int64_t> k_position;
      for (std::int64_t j = 0; j < keys; ++j) k_position.push_back(below(300));
      const std::vector<std::int64_t> q_position(static_cast<std::size_t>(heads), 100 + below(200));
      struct Result {
        Array<float, 2> out, p;
        std::vector<float> lse;
      };
      // Heads [first, first + n) in one call.
      const auto run = [&](auto function, std::int64_t first, std::int64_t n) {
        Result result{Array<float, 2>({n, dims}), Array<float, 2>({n, keys}),
                      std::vector<float>(static_cast<std::size_t>(n))};
        kernels::AttentionParams params;
        params.q = {q.data() + first * dims, {n, dims}};
        params.q_position = std::span(q_position).first(static_cast<std::size_t>(n));
        params.k = {k.data(), {keys, dims}};
        params.v = {v.data(), {keys, dims}};
        params.k_position = k_position;
        params.log_count = keys % 2 ? counts.data() : nullptr;
        params.scale = 0.3f;
        params.window = keys % 3 == 0 ? 50 : 0;
        params.out = result.out.view();
        params.lse = result.lse.data();
        params.probabilities = [&](std::int64_t row, View<const float, 2> p) {
          for (std::int64_t i = 0; i < p.extent(0); ++i)
            for (std::int64_t j = 0; j < keys; ++j) result.p(row + i, j) = p(i, j);
        };
        function(params);
        return result;
      };
      const auto values = [](const Array<float, 2>& a) { return std::vector<float>(a.data(), a.data() + a.size()); };
      const Result together = run(kernels::attention, 0, heads), expected = run(kernels::attention_ref, 0, heads);
      EXPECT_TRUE(near(values(together.out), values(expected.out), 3e-3, 1e-4));
      EXPECT_TRUE(near(together.lse, expected.lse, 1e-4, 1e-6));
      EXPECT_TRUE(near(values(together.p), values(expected.p), 1e-4, 1e-4));
      for (std::int64_t h = 0; h < heads; ++h) {  // bitwise
        const Result alone = run(kernels::attention, h, 1);
        const auto at = static_cast<std::size_t>(h);
        EXPECT_EQ(alone.lse[0], together.lse[at]);
        for (std::int64_t d = 0; d < dims; ++d) EXPECT_EQ(alone.out(0, d), together.out(h, d));
        for (std::int64_t j = 0; j < keys; ++j) EXPECT_EQ(alone.p(0, j), together.p(h, j));
      }
    });
  });
}

}  // namespace
}  // namespace kvgrind::tests
